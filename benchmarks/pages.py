"""Pages of results: a template filled with the command, the machine and the figures, written whole or not at all."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from pathlib import Path

import torch

from gsd_cli.base.atomic import atomic_file


def publish(template: str, page: Path | None, **facts: object) -> None:
    """Print the template with `command`, `machine` and these facts in it, and write it to `page` if there is one."""
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    machine = f"{platform.machine()}, {os.cpu_count()} CPU cores, torch {torch.__version__}"
    text = template.format(command=command, machine=machine, **facts)
    if page is not None:
        with atomic_file(page) as temporary:
            temporary.write_text(text, encoding="utf-8")
    print(text)
