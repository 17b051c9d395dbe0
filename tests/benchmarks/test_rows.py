from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from rows import Row, Rows, markdown


def test_a_row_is_measured_once_and_kept(tmp_path: Path) -> None:
    calls: list[str] = []

    def measure() -> Row:
        calls.append("x")
        return {"psnr": 30.0}

    path = tmp_path / "out" / "x.json"
    assert Rows(path, {"N": 2}).once("a", measure) == {"psnr": 30.0}
    again = Rows(path, {"N": 2})
    assert again.once("a", measure) == {"psnr": 30.0}
    assert calls == ["x"]
    again.once("b", lambda: {"fd": 1})
    assert path.with_suffix(".csv").read_text().splitlines() == ["name,psnr,fd", "a,30.0,", "b,,1"]


def test_another_protocol_is_refused(tmp_path: Path) -> None:
    Rows(tmp_path / "x.json", {"N": 2}).once("a", dict)
    with pytest.raises(SystemExit, match="another protocol"):
        Rows(tmp_path / "x.json", {"N": 3})


def test_a_table_gives_three_digits() -> None:
    assert markdown(["name", "x"], [["a", 0.123456], ["b", 7]]).splitlines() == [
        "| name | x |", "| --- | ---: |", "| a | 0.123 |", "| b | 7 |",
    ]  # fmt: skip
