"""Rows of measurements as a table, and a table as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import replace

from gsd_cli.metrics.comparison import Row
from gsd_cli.table import Table

TITLES = {
    "fd_infinity": "at N = inf", "kid": "KID", "precision": "precision", "recall": "recall", "density": "density",
    "coverage": "coverage", "ppl": "PPL", "speed_cv": "speed CV", "spearman": "Spearman", "effective_rank": "rank",
    "pair_distance": "pair distance", "diversity": "diversity", "peak_memory_mb": "memory (MB)",
}  # fmt: skip
SPREADS = {
    "fd": "fd_error", "fd_infinity": "fd_infinity_error", "kid": "kid_std", "diversity": "diversity_error",
}  # fmt: skip
"""Where a figure's plus-or-minus is."""
EDITS = {
    "success": ("success", "mean change of the attribute over what was asked for, at most 1"),
    "leakage": ("leakage", "mean change of the other attributes over the target's, in standard deviations"),
    "monotonicity": ("Spearman", "of strength (-2 to 2 standard deviations) and attribute"),
    "auroc": ("AUROC", "of a linear probe along the direction, on held-out samples: linear separability"),
    "class_kept": ("kept", "share of edited pictures that the classifier still calls the same"),
    "feature_distance": ("distance", "squared, in the generator's encoder, from the untouched picture at strength 2"),
}


def table1(rows: list[Row], figure: str, facts: Mapping[str, str]) -> Table:
    """The paper's Table 1: a line a model, and the last line's ratio to each baseline."""
    return _table("Table 1", rows, figure, facts, ratios_too=True)


def table2(rows: list[Row], figure: str, facts: Mapping[str, str]) -> Table:
    """The paper's Table 2, the ablation: a line a variant, the whole loss (the last of `rows`) first."""
    shown = _table("Table 2", rows, figure, facts, ratios_too=False)
    return replace(shown, rows=[shown.rows[-1], *shown.rows[:-1]])


def edits_table(rows: list[Row]) -> Table | None:
    """What edits achieve: a line for each generator and attribute; None where none was measured."""
    lines = [
        [row.name, name, *(_edit(figures, key) for key in EDITS)] for row in rows for name, figures in row.edits.items()
    ]
    notes = [f"{title}: {about}" for title, about in EDITS.values()]
    return (
        Table("Edits", ["model", "attribute", *(title for title, _ in EDITS.values())], lines, notes) if lines else None
    )


def _edit(figures: Mapping[str, float], key: str) -> str:
    return f"{figures[key]:.3f}" if key in figures else "-"


def _table(title: str, rows: list[Row], figure: str, facts: Mapping[str, str], *, ratios_too: bool) -> Table:
    ours = rows[-1]
    columns = ["model", "calls"]
    cells = {row.name: [row.name, str(row.calls)] for row in rows}
    ratios = {row.name: [f"{ours.name} / {row.name}", f"1/{row.calls}"] for row in rows[:-1]}

    def add(name: str, values: list[float | None], texts: list[str]) -> None:
        columns.append(name)
        for row, text in zip(rows, texts, strict=True):
            cells[row.name].append(text)
        last = values[-1]
        for row, value in zip(rows[:-1], values, strict=False):
            ratios[row.name].append(_ratio(last, value))

    for key, name in {"fd": figure, **TITLES}.items():
        values = [row.figures.get(key) for row in rows]
        if any(value is not None for value in values):
            add(name, values, [_cell(row, key) for row in rows])
    if ours.time is not None:
        times = [row.time.median if row.time else None for row in rows]
        add("time (s/image)", times, ["-" if t is None else f"{t:.4g}" for t in times])
    notes = [f"{name}: {fact}" for name, fact in facts.items()]
    return Table(title, columns, [*cells.values(), *(ratios.values() if ratios_too else ())], notes)


def _cell(row: Row, key: str) -> str:
    value = row.figures.get(key)
    if value is None:
        return "-"
    spread = row.figures.get(SPREADS.get(key, ""))
    if key == "ppl":
        spread = (row.figures["ppl_high"] - row.figures["ppl_low"]) / 2
    text = f"{value:.4g}" if key in ("ppl", "peak_memory_mb") else f"{value:.5f}" if key == "kid" else f"{value:.3f}"
    return text if spread is None else f"{text} ± {spread:.2g}"


def _ratio(ours: float | None, theirs: float | None) -> str:
    if ours is None or not theirs:
        return "-"
    ratio = ours / theirs
    return f"{ratio:.2f}" if ratio >= 0.01 else f"1/{1 / ratio:.0f}"


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
