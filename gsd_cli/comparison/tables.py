"""Rows of measurements as a table, and a table as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import replace

from gsd_cli.base.table import Table
from gsd_cli.comparison.contenders import Row
from gsd_cli.comparison.metric import Column
from gsd_cli.comparison.metric_table import METRICS

NOT_RESOLVED = "not resolved"


def table1(rows: list[Row], figure: str, facts: Mapping[str, str], real: Mapping[str, float] | None = None) -> Table:
    """The paper's Table 1: a line per model, one for the real images, and the last model's ratio to each baseline."""
    return _table("Table 1", rows, figure, facts, real, ratios_too=True)


def table2(rows: list[Row], figure: str, facts: Mapping[str, str], real: Mapping[str, float] | None = None) -> Table:
    """The paper's Table 2, the ablation: a line per variant, the whole loss (the last of `rows`) first."""
    shown = _table("Table 2", rows, figure, facts, real, ratios_too=False)
    ours = len(rows) - 1
    return replace(shown, rows=[shown.rows[ours], *shown.rows[:ours], *shown.rows[ours + 1 :]])


def _table(
    title: str, rows: list[Row], figure: str, facts: Mapping[str, str], real: Mapping[str, float] | None,
    *, ratios_too: bool,
) -> Table:  # fmt: skip
    columns = _columns(rows, figure)
    values = [[column.value(row) for row in rows] for column in columns]
    lines = [[row.name, str(row.calls), *(column.cell(row) for column in columns)] for row in rows]
    of_real = [f"{real[column.key]:.3g}" if real and column.key in real else "-" for column in columns]
    if any(cell != "-" for cell in of_real):
        lines.append(["real images", "-", *of_real])
    unresolved = False
    if ratios_too:
        for i, row in enumerate(rows[:-1]):
            ratios = [
                _ratio(found[-1], found[i], resolved=column.resolved(rows[-1], row)) if column.compared else "-"
                for column, found in zip(columns, values, strict=True)
            ]
            unresolved |= any(NOT_RESOLVED in ratio for ratio in ratios)
            lines.append([f"{rows[-1].name} / {row.name}", f"1/{row.calls}", *ratios])
    notes = [f"{name}: {fact}" for name, fact in facts.items()]
    if unresolved:
        notes.append(f"{NOT_RESOLVED}: the 95 % intervals of the two figures overlap; more samples narrow them")
    return Table(title, ["model", "calls", *(column.title for column in columns)], lines, notes)


def _columns(rows: list[Row], figure: str) -> list[Column]:
    """The columns with a figure in some row, each in its place."""
    columns = [column for metric in METRICS for column in metric.columns_of(rows, figure)]
    measured = [column for column in columns if any(column.value(row) is not None for row in rows)]
    return sorted(measured, key=lambda column: column.place)


def _ratio(ours: float | None, theirs: float | None, *, resolved: bool) -> str:
    if ours is None or not theirs:
        return "-"
    ratio = ours / theirs
    shown = f"{ratio:.2f}" if ratio >= 0.01 else f"1/{1 / ratio:.0f}"
    return shown if resolved else f"{shown}, {NOT_RESOLVED}"


def markdown(shown: Table) -> str:
    """The table and its protocol in Markdown."""
    lines = [shown.columns, ["---"] + ["---:"] * (len(shown.columns) - 1), *shown.rows]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return body + "\n\n" + "\n".join(f"- {note}" for note in shown.notes) + "\n"


def latex(shown: Table) -> str:
    """The table as a LaTeX tabular with booktabs' rules, its notes as comments."""
    lines = ["\\begin{tabular}{l" + "r" * (len(shown.columns) - 1) + "}", "\\toprule"]
    body = [" & ".join(map(_escaped, line)) + " \\\\" for line in [shown.columns, *shown.rows]]
    lines += [body[0], "\\midrule", *body[1:], "\\bottomrule", "\\end{tabular}"]
    return "\n".join([*lines, *(f"% {note}" for note in shown.notes)]) + "\n"


def _escaped(text: str) -> str:
    for character in "&%#_":
        text = text.replace(character, "\\" + character)
    return text.replace("±", "$\\pm$")


def comma_separated(shown: Table) -> str:
    """The table as CSV."""
    buffer = io.StringIO()
    csv.writer(buffer).writerows([shown.columns, *shown.rows])
    return buffer.getvalue()
