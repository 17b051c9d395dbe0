"""Noticing from a run's own figures that it goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

RISE = 1.5
"""A Frechet distance this far above the best before, twice in a row, is no accident: early in a good
run a single evaluation can lie a third above the one before it."""
HEAVY = 10.0
"""Above this ratio of the two gradients' norms the isometric term leads; 1 to 3 is usual."""

Rows = Sequence[dict[str, Any]]


def review(rows: Rows) -> list[str]:
    """What to tell after the last of these rows of metrics.jsonl, an evaluation; [] while all is well.

    Two things, each told once, when it begins: the isometric term's gradient outweighs the
    distillation's by more than HEAVY; the Frechet distance `fd` has turned and rises.
    """
    evaluations = [i for i, row in enumerate(rows) if row.get("fd") is not None]
    before = rows[: evaluations[-2] + 1] if len(evaluations) > 1 else []
    ratio, notes = _ratio(rows), []
    heavy = f"the isometric term's gradient is {ratio:.3g} times the distillation's"
    advice = "use --irl-weight auto or a smaller weight"
    if ratio > HEAVY and _ratio(before) <= HEAVY:
        notes.append(f"{heavy}: the pictures will suffer; {advice}")
    if _rising(rows) and not _rising(before):
        best = min((rows[i] for i in evaluations), key=lambda row: row["fd"])
        cause = f"{heavy}: {advice}" if ratio > HEAVY else "if it goes on, lower --lr or --alpha"
        now = rows[evaluations[-1]]["fd"]
        notes.append(f"the Frechet distance rises, from {best['fd']:.4g} at step {best['step']} to {now:.4g}; {cause}")
    return notes


def _ratio(rows: Rows) -> float:
    """The median ratio of the gradients over the last logged steps; 0 when there are none."""
    ratios = [row["irl_ratio"] for row in rows if row.get("irl_ratio") is not None]
    return median(ratios[-5:]) if ratios else 0.0


def _rising(rows: Rows) -> bool:
    """Whether the last two distances both lie RISE times above the best before them."""
    distances = [row["fd"] for row in rows if row.get("fd") is not None]
    return len(distances) > 2 and min(distances[-2:]) > RISE * min(distances[:-2])
