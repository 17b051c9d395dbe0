"""Every row of the fault table has a test, and the page says what the tests said."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support.reliability import ROWS, Table, page

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "reliability.md"


def marked() -> Iterator[int]:
    """The rows of all fault marks in the tests."""
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "fault":
                row, how = (ast.literal_eval(argument) for argument in node.args)
                assert how
                yield row


def test_every_row_has_a_test() -> None:
    assert set(marked()) == set(ROWS) == set(range(1, 24))


def test_the_page_has_every_row_and_none_failed() -> None:
    rows = [line.split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    found = {int(cells[0].strip("| ")): cells for cells in rows if cells[0].strip("| ").isdigit()}
    assert list(found) == list(ROWS)
    for row, (fault, outcome) in ROWS.items():
        assert found[row][1:3] == [fault, outcome]
        assert int(found[row][4].replace(",", "")) > 0
        assert found[row][5].startswith("passed")


def test_a_row_that_failed_or_was_not_run_says_so() -> None:
    rows = Table().rows()
    rows[3].ways["a way"], rows[3].failed = 2, {"a", "b"}
    lines = page(rows).splitlines()
    assert sum(line.endswith("| 0 | not run |") for line in lines) == 22
    assert any(line.endswith("| a way (2) | 2 | 2 FAILED |") for line in lines)
