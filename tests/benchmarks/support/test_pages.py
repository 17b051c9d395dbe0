from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.support.pages import markdown_table

ROOT = Path(__file__).parents[3]


def test_a_table_gives_three_digits() -> None:
    assert markdown_table(["name", "x"], [["a", 0.123456], ["b", 7]]).splitlines() == [
        "| name | x |", "| --- | ---: |", "| a | 0.123 |", "| b | 7 |",
    ]  # fmt: skip


def test_a_page_gives_the_command_that_writes_it_again(tmp_path: Path) -> None:
    package = tmp_path / "measured"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "script.py").write_text(
        "from benchmarks.support.pages import publish\npublish('{command}: {n}', None, n=3)\n"
    )
    command = [sys.executable, "-m", "measured.script", "--title", "two words"]
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "python -m measured.script --title 'two words': 3\n"
