"""Images of a terminal for the documentation: python -m scripts.capture FOLDER COMMAND PATTERN OUT.svg [--light]

Runs a command in tmux, in FOLDER, until PATTERN is on the screen, and draws it, colours included. Needs tmux.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import time
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, SVG_EXPORT_THEME
from rich.text import Text

ROWS = 40
SERVER = "gsd-capture"


def screen(folder: Path, command: str, pattern: str, columns: int, seconds: float = 240) -> str:
    """What is on the screen, as ANSI, once a regular expression matches it."""

    def tmux(*arguments: str) -> str:
        return subprocess.run(["tmux", "-L", SERVER, *arguments], check=True, capture_output=True, text=True).stdout

    shell = "env PS1='$ ' COLORTERM=truecolor bash --norc"
    tmux("new-session", "-d", "-x", str(columns), "-y", str(ROWS), "-c", str(folder), shell)
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
    """Draw one image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("command")
    parser.add_argument("pattern", help="a regular expression: the end is reached when it is on the screen")
    parser.add_argument("out", type=Path)
    parser.add_argument("--light", action="store_true")
    parser.add_argument("--columns", type=int, default=80)
    given = parser.parse_args()
    text = Text.from_ansi(screen(given.folder, given.command, given.pattern, given.columns))
    with open("/dev/null", "w") as nowhere:
        console = Console(
            record=True, width=given.columns, file=nowhere, force_terminal=True, color_system="truecolor"
        )  # fmt: skip
        console.print(text)
    colours = DEFAULT_TERMINAL_THEME if given.light else SVG_EXPORT_THEME
    given.out.write_text(console.export_svg(title="gsd", theme=colours), encoding="utf-8")


if __name__ == "__main__":
    main()
