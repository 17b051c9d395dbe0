"""Pages of results and sections of them: templates filled with the command, the machine and the figures."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from gsd_cli.base.atomic import atomic_file


def publish(template: str, page: Path | None, **facts: object) -> None:
    """Fill the template with `command`, `machine` and these facts; print it, and write it to `page` if there is one.

    A template that opens with a heading below the first level is a section: the rest of the page stays.
    """
    machine = f"{platform.machine()}, {os.cpu_count()} CPU cores, torch {torch.__version__}"
    text = template.format(command=command_line(sys.argv[1:]), machine=machine, **facts)
    if page is not None:
        write_page(page, text)
    print(text)


def write_page(page: Path, text: str) -> None:
    """Write a page, or the one section of it that `text` is."""
    if text.startswith("##"):
        text = with_section(page.read_text(encoding="utf-8") if page.exists() else "", text)
    with atomic_file(page) as temporary:
        temporary.write_text(text, encoding="utf-8")


def with_section(page: str, section: str) -> str:
    """The page with `section` in place of the one that has its heading, or at the end. It holds no fenced blocks."""
    heading = section.partition("\n")[0]
    level = len(heading) - len(heading.lstrip("#"))
    before, found, after = f"\n{page}".partition(f"\n{heading}\n")
    following = re.search(rf"^#{{1,{level}}} ", after, re.M) if found else None
    parts = [before.strip(), section.strip(), after[following.start() :].strip() if following else ""]
    return "\n\n".join(part for part in parts if part) + "\n"


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
