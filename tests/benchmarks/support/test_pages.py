from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.support.pages import markdown_table, with_section, write_page

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


def test_a_section_replaces_the_one_of_its_heading_and_nothing_else() -> None:
    page = "# Title\n\nOne sentence.\n\n## First\n\nold\n\n### Inner\n\nold\n\n## Second\n\nkept\n"
    changed = with_section(page, "## First\n\nnew\n")
    assert changed == "# Title\n\nOne sentence.\n\n## First\n\nnew\n\n## Second\n\nkept\n"
    assert with_section(changed, "## First\n\nnew\n") == changed
    assert with_section(page, "### Inner\n\nnew\n") == page.replace("### Inner\n\nold", "### Inner\n\nnew")
    assert with_section(page, "## Third\n\nmore\n") == page + "\n## Third\n\nmore\n"


def test_a_section_makes_a_page_where_there_is_none(tmp_path: Path) -> None:
    write_page(tmp_path / "page.md", "## First\n\nnew\n")
    assert (tmp_path / "page.md").read_text() == "## First\n\nnew\n"
    write_page(tmp_path / "page.md", "# Whole\n")
    assert (tmp_path / "page.md").read_text() == "# Whole\n"
