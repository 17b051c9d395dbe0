"""Tables for people (directions, intervals, what is not resolved) and for programs (one number a column)."""

from __future__ import annotations

import csv
import io

import pytest

from gsd_cli.base.table import Table
from gsd_cli.comparison.contenders import Row
from gsd_cli.comparison.edits import edits_table
from gsd_cli.comparison.metric import RECORD, Column
from gsd_cli.comparison.metric_table import METRICS
from gsd_cli.comparison.report import headlines
from gsd_cli.comparison.tables import comma_separated, latex, short_names, table1
from gsd_cli.metrics.speed import Timing


def model(name: str, ppl: tuple[float, float, float], seconds: float = 1.0) -> Row:
    low, value, high = ppl
    figures = {"fd": 18.22, "fd_error": 8.6, "n": 64, "ppl": value, "ppl_low": low, "ppl_high": high, "ppl_pairs": 10}
    row = Row(name, 1, 10, figures, samples=64, judge="toy", perceptual="toy")
    row.time = Timing(seconds, 0.9 * seconds, 1.1 * seconds, 5, 1)
    return row


def parsed(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(comma_separated(table))))


def test_each_cell_of_the_csv_is_one_number_or_one_name() -> None:
    records = parsed(
        table1([model("msa", (60, 80, 100)), model("ours", (30, 40, 50))], "FD-toy", {}, {"grain_bright": 3})
    )
    assert tuple(records[0]) == RECORD
    for record in records:
        for name in ("calls", "parameters", "value", "low", "high", "error", "n"):
            assert record[name] == "" or float(record[name]) == float(record[name])
        assert "±" not in "".join(record.values())
    distance = next(record for record in records if record["model"] == "ours" and record["figure"] == "FD-toy")
    assert (distance["features"], distance["n"], distance["better"]) == ("toy", "64", "lower")
    assert float(distance["high"]) - 18.22 == pytest.approx(1.96 * 8.6)
    time = next(record for record in records if record["figure"] == "time per image")
    assert (time["unit"], time["interval"], time["value"]) == ("s", "quartiles", "1.0")


def test_the_header_of_the_csv_does_not_depend_on_what_was_measured() -> None:
    bare = Row("x", 1, 1, {"kid": 0.1})
    assert tuple(parsed(table1([bare], "FD-toy", {}))[0]) == RECORD


def test_the_csv_of_edits_has_a_number_a_column() -> None:
    row = Row("ours", 1, 1, edits={"width": {"success": 0.123456, "leakage": 0.5}})
    shown = edits_table([row])
    assert shown is not None and "success ↑" in shown.columns and "leakage ↓" in shown.columns
    (record,) = parsed(shown)
    assert (record["model"], record["attribute"]) == ("ours", "width")
    assert float(record["success"]) == 0.123456 and record["auroc"] == ""


def test_a_ratio_whose_intervals_overlap_is_not_resolved() -> None:
    close, apart = model("close", (40, 70, 100)), model("apart", (30, 35, 40))
    first = model("msa", (60, 80, 100))
    for ours, resolved in ((close, False), (apart, True)):
        shown = table1([first, ours], "FD-toy", {})
        ratio = dict(zip(shown.columns, shown.rows[-1], strict=True))["PPL ↓"]
        assert ratio.startswith(f"{ours.figures['ppl'] / 80:.2f}")
        assert ("not resolved" in ratio) != resolved
        assert any("the 95 % intervals of the two figures overlap" in note for note in shown.notes)  # of the distance
        tile = {line.name: line for line in headlines([first, ours], "FD-toy")}["PPL"]
        assert (tile.value == "not resolved") != resolved
        assert "60 to 100" in tile.detail and "Lower is better" in tile.detail


def test_times_are_in_the_units_of_people() -> None:
    rows = [model("msa", (1, 2, 3), 1.29), model("ours", (1, 2, 3), 0.00753)]
    shown = table1(rows, "FD-toy", {})
    times = [row[shown.columns.index("time per image ↓")] for row in shown.rows]
    assert times == ["1.29 s (1.16 s to 1.42 s)", "7.53 ms (6.78 ms to 8.28 ms)", "1/171"]
    assert all("e+" not in line.detail for line in headlines(rows, "FD-toy"))


def test_every_column_says_what_is_better_or_is_a_matter_of_taste() -> None:
    columns = [column for metric in METRICS for column in metric.columns_of([], "FD")]
    assert {column.key for column in columns if not column.better} == {"pair_distance"}
    assert "FD-toy $\\downarrow$" in latex(table1([model("x", (1, 2, 3))], "FD-toy", {}))


def test_a_share_has_the_interval_of_its_cases() -> None:
    row = Row("x", 1, 1, {"precision": 0.5, "n": 100})
    low, high = Column("precision", "precision", share_of="n").interval(row) or (0.0, 0.0)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))


def test_paths_are_shown_by_their_last_part_unless_two_are_alike() -> None:
    assert short_names(["msa", "ddim-10", "/a/b/pets/generator", "runs/cats/best"]) == {
        "msa": "msa", "ddim-10": "ddim-10", "/a/b/pets/generator": "pets", "runs/cats/best": "cats/best",
    }  # fmt: skip
    assert short_names(["a/pets", "b/pets", "c"]) == {"a/pets": "a/pets", "b/pets": "b/pets", "c": "c"}
