from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.support.results import Results, Row


def test_a_row_is_measured_once_and_kept(tmp_path: Path) -> None:
    calls: list[str] = []

    def measure() -> Row:
        calls.append("x")
        return {"psnr": 30.0}

    path = tmp_path / "out" / "x.json"
    assert Results(path, {"N": 2}).measure_once("a", measure) == {"psnr": 30.0}
    again = Results(path, {"N": 2})
    assert again.measure_once("a", measure) == {"psnr": 30.0}
    assert calls == ["x"]
    again.measure_once("b", lambda: {"fd": 1})
    assert path.with_suffix(".csv").read_text().splitlines() == ["name,psnr,fd", "a,30.0,", "b,,1"]


def test_another_protocol_is_refused(tmp_path: Path) -> None:
    Results(tmp_path / "x.json", {"N": 2}).measure_once("a", dict)
    with pytest.raises(SystemExit, match="another protocol"):
        Results(tmp_path / "x.json", {"N": 3})
