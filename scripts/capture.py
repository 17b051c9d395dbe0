"""Pictures of a terminal for the documentation: python -m scripts.capture FOLDER COMMAND PATTERN OUT.svg [light]

Runs a command in tmux, in FOLDER, until PATTERN is on the screen, and draws it, colours included. Needs tmux.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, SVG_EXPORT_THEME
from rich.text import Text

COLUMNS, ROWS = 80, 40
SERVER = "gsd-capture"


def screen(folder: Path, command: str, pattern: str, seconds: float = 240) -> str:
    """What is on the screen, as ANSI, once a regular expression matches it."""

    def tmux(*arguments: str) -> str:
        return subprocess.run(["tmux", "-L", SERVER, *arguments], check=True, capture_output=True, text=True).stdout

    shell = "env PS1='$ ' COLORTERM=truecolor bash --norc"
    tmux("new-session", "-d", "-x", str(COLUMNS), "-y", str(ROWS), "-c", str(folder), shell)
    try:
        tmux("set-option", "-g", "default-terminal", "tmux-256color")
        tmux("send-keys", f"clear; {command}", "Enter")
        end = time.monotonic() + seconds
        while not re.search(pattern, tmux("capture-pane", "-p")) and time.monotonic() < end:
            time.sleep(0.5)
        shown = tmux("capture-pane", "-p", "-e")
    finally:
        tmux("kill-server")
    return f"$ {command}\n" + shown.rstrip()


def main() -> None:
    """Draw one picture."""
    folder, command, pattern, out, *theme = sys.argv[1:]
    text = Text.from_ansi(screen(Path(folder), command, pattern))
    with open("/dev/null", "w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True, color_system="truecolor")
        console.print(text)
    colours = DEFAULT_TERMINAL_THEME if theme == ["light"] else SVG_EXPORT_THEME
    Path(out).write_text(console.export_svg(title="gsd", theme=colours), encoding="utf-8")


if __name__ == "__main__":
    main()
