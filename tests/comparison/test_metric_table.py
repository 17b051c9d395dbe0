"""The records of the metrics, and the names that a user types."""

from __future__ import annotations

from gsd_cli.catalogue.registry import METRIC_ALIASES, METRICS
from gsd_cli.comparison import metric_table
from gsd_cli.comparison.contenders import Row
from gsd_cli.comparison.metric import Column
from gsd_cli.options import BenchOptions


def test_names_and_records_are_the_same_in_the_same_order() -> None:
    assert [metric.name for metric in metric_table.METRICS] == [name for name in METRICS if name not in METRIC_ALIASES]
    assert set(METRIC_ALIASES) <= set(METRICS) and set(METRIC_ALIASES.values()) <= set(METRICS)


def test_help_names_each_metric() -> None:
    shown = BenchOptions.model_fields["metrics"].description
    assert shown is not None and shown.endswith(
        ": fd (or fid), kid, pr (precision, recall, density, coverage), clip-score (for text-conditional models), "
        "grain, ppl, isometry, diversity, time, memory, throughput, edit."
    )


def test_each_metric_is_measured_in_one_way_and_has_columns_of_its_own() -> None:
    for metric in metric_table.METRICS:
        assert (metric.measure is None) != (metric.measure_together is None), metric.name
    keys = [column.key for metric in metric_table.METRICS for column in metric.columns_of([], "FD")]
    assert len(set(keys)) == len(keys)


def test_a_cell_shows_a_figure_with_its_spread() -> None:
    row = Row("GSD", 1, 1, {"a": 1.23456, "a_error": 0.025, "low": 1.0, "high": 2.0})
    assert Column("a", "A").cell(row) == "1.235"
    assert Column("a", "A", ".3g", ("a_error",)).cell(row) == "1.23 ± 0.025"
    assert Column("a", "A", spread=("low", "high")).cell(row) == "1.235 ± 0.5"
    assert Column("a", "A", spread=("missing",)).cell(row) == "1.235"
    assert Column("b", "B", spread=("a_error",)).cell(row) == "-"
