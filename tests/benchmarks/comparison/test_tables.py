from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.comparison.tables import SECTIONS, VARIANTS, first_table, goal, order, result, write_section


def report(fd: float, ppl: float, seconds: float) -> dict[str, object]:
    return {"fd": fd, "ppl": ppl, "time": {"median": seconds}}


def test_a_goal_that_is_missed_is_said_to_be_missed() -> None:
    assert goal("time", 3.0, 3.0) == "* time: 3, goal at most 3: reached"
    assert goal("time", 3.1, 3.0) == "* time: 3.1, goal at most 3: **missed**"


def test_the_page_opens_with_all_distances_in_order() -> None:
    rows = {"msa": {"calls": 1000, "fd": 1.15, "fd_error": 0.11}, "fashion": {"calls": 1, "fd": 1.57, "fd_error": 0.13}}
    more = {"ddim-10": {"calls": 10, "fd": 1.3, "fd_error": 0.2}, "fashion": rows["fashion"], "untold": {"calls": 1}}
    found = [{"figure": "FD-fashion", "rows": rows}, {"figure": "FD-fashion", "rows": more}]
    assert result(found) == (
        "FD-fashion, lower is better: msa 1.15 ± 0.11 (1000 calls), ddim-10 1.30 ± 0.20 (10 calls), "
        "fashion 1.57 ± 0.13 (1 call)."
    )


def test_the_first_table_compares_the_last_row_with_the_baseline() -> None:
    rows = {"msa": report(2.0, 100.0, 30.0), "generator": report(1.6, 95.0, 0.05)}
    told_of = first_table({"rows": rows}, seconds=240.0)
    assert [("missed" in line) for line in told_of] == [False, True, False, True]
    assert "0.8," in told_of[0] and "0.95," in told_of[1] and "4," in told_of[3]


@pytest.mark.parametrize(("distances", "kept"), [((1, 2, 3), True), ((2, 1, 3), False), ((1, 3, 2), False)])
def test_the_order_of_the_ablation_is_checked_column_by_column(distances: tuple[int, ...], kept: bool) -> None:
    rows = {name: {"fd": fd, "ppl": ppl} for name, fd, ppl in zip(VARIANTS, distances, (1, 2, 3), strict=True)}
    of_distance, of_length = order({"ablation": {"rows": rows}}, 0.0)
    assert ("as in the paper" in of_distance) == kept
    assert "as in the paper" in of_length


def test_a_section_is_told_from_its_report(tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text(json.dumps({"rows": {}}))
    (tmp_path / "seconds.json").write_text(json.dumps({"seconds": 1.0}))
    (tmp_path / "table1.md").write_text("| a |\n| - |\n")
    text = write_section("samplers", SECTIONS["samplers"], "fashion", tmp_path, "tables")
    assert text.startswith("## The same teacher, more calls\n\n    gsd bench --model fashion --compare ddim-10,")
    assert "| a |\n| - |\n\n![" in text and text.endswith("(tables/samplers-pareto.png)")
