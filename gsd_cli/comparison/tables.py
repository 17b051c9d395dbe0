"""Rows of measurements as a table, and a table as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace

from gsd_cli.base.table import Table
from gsd_cli.base.text import format_number
from gsd_cli.catalogue.run_layout import run_name
from gsd_cli.comparison.contenders import Row
from gsd_cli.comparison.metric import RECORD, Column
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
    columns = columns_of(rows, figure)
    names = short_names([row.name for row in rows])
    lines = [[names[row.name], str(row.calls), *(column.cell(row) for column in columns)] for row in rows]
    of_real = [format_number(real[column.key]) if real and column.key in real else "-" for column in columns]
    if any(cell != "-" for cell in of_real):
        lines.append(["real images", "-", *of_real])
    unresolved = False
    if ratios_too:
        for row in rows[:-1]:
            ratios = [_ratio(column, rows[-1], row) for column in columns]
            unresolved |= any(NOT_RESOLVED in ratio for ratio in ratios)
            lines.append([f"{names[rows[-1].name]} / {names[row.name]}", f"{rows[-1].calls}/{row.calls}", *ratios])
    facts = {short: name for name, short in names.items() if short != name} | dict(facts)
    notes = [*_legend(columns, unresolved=unresolved), *(f"{name}: {fact}" for name, fact in facts.items())]
    records = [column.record(row) for row in rows for column in columns if column.value(row) is not None]
    records += [_real_record(column, real[column.key]) for column in columns if real and column.key in real]
    return Table(title, ["model", "calls", *(column.heading for column in columns)], lines, notes, records)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """The last parts of the names that are paths, where those differ; a sampler's name stays."""
    short = {name: run_name(name) for name in names}
    return {name: name if list(short.values()).count(short[name]) > 1 else short[name] for name in names}


def _legend(columns: Sequence[Column], *, unresolved: bool) -> list[str]:
    """How to read the arrows, the spreads and the ratios."""
    signs = {"lower": "↓ lower is better", "higher": "↑ higher is better"}
    found = [text for better, text in signs.items() if any(column.better == better for column in columns)]
    notes = ["; ".join(found)] if found else []
    if unresolved:
        notes.append(f"{NOT_RESOLVED}: the 95 % intervals of the two figures overlap; more samples narrow them")
    return notes


def _real_record(column: Column, value: float) -> dict[str, str | float | None]:
    return dict.fromkeys(RECORD) | {
        "model": "real images", "figure": column.name or column.title, "value": value, "unit": column.unit or None,
        "better": column.better or None,
    }  # fmt: skip


def columns_of(rows: list[Row], figure: str) -> list[Column]:
    """The columns with a figure in some row, each in its place."""
    columns = [column for metric in METRICS for column in metric.columns_of(rows, figure)]
    measured = [column for column in columns if any(column.value(row) is not None for row in rows)]
    return sorted(measured, key=lambda column: column.place)


def _ratio(column: Column, ours: Row, theirs: Row) -> str:
    mine, other = column.value(ours), column.value(theirs)
    if not column.compared or mine is None or not other:
        return "-"
    ratio = mine / other
    shown = f"{ratio:.2f}" if not 0 < ratio < 0.01 else f"1/{format_number(1 / ratio)}"
    return shown if column.resolved(ours, theirs) else f"{shown}, {NOT_RESOLVED}"


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
    for sign, command in (("±", "pm"), ("↓", "downarrow"), ("↑", "uparrow")):
        text = text.replace(sign, f"$\\{command}$")
    return text


def comma_separated(shown: Table) -> str:
    """The table as CSV for programs: its records, one number a column at full precision, else its cells."""
    buffer = io.StringIO()
    if shown.records:
        writer = csv.DictWriter(buffer, list(shown.records[0]))
        writer.writeheader()
        writer.writerows(shown.records)
    else:
        csv.writer(buffer).writerows([shown.columns, *shown.rows])
    return buffer.getvalue()
