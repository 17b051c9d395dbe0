"""Pages of results: a template filled with the command, the machine and the figures, and written atomically."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from gsd_cli.base.atomic import atomic_file


def publish(template: str, page: Path | None, **facts: object) -> None:
    """Fill the template with `command`, `machine` and these facts; print it, and write it to `page` if there is one."""
    machine = f"{platform.machine()}, {os.cpu_count()} CPU cores, torch {torch.__version__}"
    text = template.format(command=command_line(sys.argv[1:]), machine=machine, **facts)
    if page is not None:
        with atomic_file(page) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print(text)


def command_line(arguments: Sequence[str]) -> str:
    """The shell command that runs the current script with these arguments: `python -m benchmarks...`."""
    spec = sys.modules["__main__"].__spec__
    return shlex.join(["python", *(["-m", spec.name] if spec is not None else sys.argv[:1]), *arguments])


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table. Floats have three significant digits."""
    lines = ["| " + " | ".join(columns) + " |", "| --- " + "| ---: " * (len(columns) - 1) + "|"]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
