"""Write everything that follows from the option models: python -m scripts.generate

flags.json for a fast start, completions for three shells, man pages, the reference.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from gsd_cli.cli.completion_scripts import SCRIPTS
from gsd_cli.cli.flags import MODELS, STORE, describe, dump
from scripts import manpages, reference

ROOT = Path(__file__).parents[1]
COMPLETIONS = {"bash": "gsd.bash", "zsh": "_gsd", "fish": "gsd.fish"}


def files() -> dict[Path, str]:
    """Every generated file and what it should hold."""
    commands = {name: describe(name, model) for name, model in MODELS.items()}
    # the version of this tree: another one may be installed
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    found = {STORE: dump(commands)}
    found |= {ROOT / "completions" / name: SCRIPTS[shell] for shell, name in COMPLETIONS.items()}
    found[ROOT / "man" / "gsd.1"] = manpages.overview(commands, version)
    found[ROOT / "docs" / "reference" / "index.md"] = reference.overview(commands)
    for name, command in commands.items():
        found[ROOT / "man" / f"gsd-{name}.1"] = manpages.page(command, version)
        found[ROOT / "docs" / "reference" / f"gsd-{name}.md"] = reference.page(command)
    return found


def main() -> int:
    """Write what differs, and name it; with --check, only name it and fail."""
    stale = {p: text for p, text in files().items() if not p.exists() or p.read_text(encoding="utf-8") != text}
    for path, text in stale.items():
        print(path.relative_to(ROOT))
        if "--check" not in sys.argv:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return int("--check" in sys.argv and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
