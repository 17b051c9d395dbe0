"""Rows of measurements as a table, and a table as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from gsd_cli.base.table import Table
from gsd_cli.comparison.contenders import Row

TITLES = {
    "grain_bright": "grain, bright", "grain_dark": "grain, dark", "kid": "KID", "precision": "precision",
    "recall": "recall", "density": "density", "coverage": "coverage", "ppl": "PPL", "speed_cv": "speed CV",
    "spearman": "Spearman", "effective_rank": "rank", "pair_distance": "pair distance", "diversity": "diversity",
    "peak_memory_mb": "memory (MB)",
}  # fmt: skip
SPREADS = {
    "fd": "fd_error", "fd_infinity": "fd_infinity_error", "kid": "kid_std", "diversity": "diversity_error",
    "grain_bright": "grain_bright_error", "grain_dark": "grain_dark_error",
}  # fmt: skip
"""Where a figure's plus-or-minus is."""
FORMATS = {"ppl": ".4g", "peak_memory_mb": ".4g", "kid": ".5f", "grain_bright": ".3g", "grain_dark": ".3g"}
"""How a figure is written, if not with three decimals."""
EDITS = {
    "success": ("success", "mean change of the attribute over what was asked for, at most 1"),
    "leakage": ("leakage", "mean change of the other attributes over the target's, in standard deviations"),
    "monotonicity": ("Spearman", "of strength (-2 to 2 standard deviations) and attribute"),
    "auroc": ("AUROC", "of a linear probe along the direction, on held-out samples: linear separability"),
    "class_kept": ("kept", "share of edited pictures that the classifier still calls the same"),
    "feature_distance": ("distance", "squared, in the generator's encoder, from the untouched picture at strength 2"),
}


def table1(rows: list[Row], figure: str, facts: Mapping[str, str], real: Mapping[str, float] | None = None) -> Table:
    """The paper's Table 1: a line a model, the real images', and the last model's ratio to each baseline."""
    return _table("Table 1", rows, figure, facts, real, ratios_too=True)


def table2(rows: list[Row], figure: str, facts: Mapping[str, str], real: Mapping[str, float] | None = None) -> Table:
    """The paper's Table 2, the ablation: a line a variant, the whole loss (the last of `rows`) first."""
    shown = _table("Table 2", rows, figure, facts, real, ratios_too=False)
    ours = len(rows) - 1
    return replace(shown, rows=[shown.rows[ours], *shown.rows[:ours], *shown.rows[ours + 1 :]])


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


@dataclass(frozen=True)
class _Column:
    """A figure of every row; no ratio where less is not better."""

    title: str
    values: list[float | None]
    cells: list[str]
    real: str = "-"
    compared: bool = True


def _table(
    title: str, rows: list[Row], figure: str, facts: Mapping[str, str], real: Mapping[str, float] | None,
    *, ratios_too: bool,
) -> Table:  # fmt: skip
    columns = [one for one in _columns(rows, figure, real or {}) if any(value is not None for value in one.values)]
    lines = [[row.name, str(row.calls), *(one.cells[i] for one in columns)] for i, row in enumerate(rows)]
    if any(one.real != "-" for one in columns):
        lines.append(["real images", "-", *(one.real for one in columns)])
    if ratios_too:
        for i, row in enumerate(rows[:-1]):
            ratios = [_ratio(one.values[-1], one.values[i]) if one.compared else "-" for one in columns]
            lines.append([f"{rows[-1].name} / {row.name}", f"1/{row.calls}", *ratios])
    notes = [f"{name}: {fact}" for name, fact in facts.items()]
    return Table(title, ["model", "calls", *(one.title for one in columns)], lines, notes)


def _columns(rows: list[Row], figure: str, real: Mapping[str, float]) -> Iterator[_Column]:
    """Every column there may be: the first distance, the others', then the rest."""

    def column(key: str, title: str, figures: Sequence[Mapping[str, float]]) -> _Column:
        shown = f"{real[key]:.3g}" if key in real else "-"
        values = [one.get(key) for one in figures]
        return _Column(title, values, [_cell(one, key) for one in figures], shown, not key.startswith("grain"))

    of_all = [row.figures for row in rows]
    yield column("fd", figure, of_all)
    yield column("fd_infinity", "at N = inf", of_all)
    others = dict.fromkeys(name for row in rows for name in row.distances if name != figure)
    for name in others:
        yield column("fd", name, [row.distances.get(name, {}) for row in rows])
    for key, title in TITLES.items():
        yield column(key, title, of_all)
    times = [row.time.median if row.time else None for row in rows]
    yield _Column("time (s/image)", times, ["-" if t is None else f"{t:.4g}" for t in times])


def _cell(figures: Mapping[str, float], key: str) -> str:
    value = figures.get(key)
    if value is None:
        return "-"
    spread = figures.get(SPREADS.get(key, ""))
    if key == "ppl":
        spread = (figures["ppl_high"] - figures["ppl_low"]) / 2
    text = f"{value:{FORMATS.get(key, '.3f')}}"
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
