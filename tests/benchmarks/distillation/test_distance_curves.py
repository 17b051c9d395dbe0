"""benchmarks/distillation/distance_curves.py keeps what it knows."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from benchmarks.distillation import distance_curves


def a_run(folder: Path, *distances: float) -> str:
    folder.mkdir()
    row = {"speed_cv": 0.5, "spearman": 0.7, "pair_distance": 1.5}
    lines = [{"step": i, "images": 64 * i, "fd": fd, **row} for i, fd in enumerate(distances)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder)


def test_runs_of_before_stay_and_the_same_ones_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rows(*runs: str) -> list[tuple[str, str, float]]:
        monkeypatch.setattr(sys, "argv", ["distance_curves", *runs, "--out", str(tmp_path / "curves")])
        distance_curves.main()
        with (tmp_path / "curves.csv").open(newline="") as file:
            return [(row["run"], row["images"], float(row["fd"])) for row in csv.DictReader(file)]

    first = [("one", "0", 76.0), ("one", "64", 10.0)]
    assert rows(a_run(tmp_path / "one", 76, 10)) == first
    assert rows(a_run(tmp_path / "two", 76, 9)) == [*first, ("two", "0", 76.0), ("two", "64", 9.0)]
    (tmp_path / "again").mkdir()
    assert rows(a_run(tmp_path / "again" / "one", 75, 8))[:2] == [("one", "0", 75.0), ("one", "64", 8.0)]
    assert (tmp_path / "curves.png").stat().st_size > 1000
