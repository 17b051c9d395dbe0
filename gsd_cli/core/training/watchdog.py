"""Warnings from a run's own metrics: signs that a distillation goes wrong."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

RISE = 1.5
"""Ratio of the Frechet distance to the best one before, twice in a row, from which it is rising. Early in a good run a
single evaluation can be a third above the previous one."""
HEAVY = 10.0
"""Above this ratio of the two gradients' norms the isometric term dominates; 1 to 3 is usual."""
FALLEN = 0.85
"""Recall below this share of the best so far, twice in a row, has fallen."""
WINS, ONE_SIDED = 0.8, 0.7
"""Mean accuracy at which a discriminator wins; difference of its accuracies at which it has collapsed."""

Rows = Sequence[dict[str, Any]]


def review(rows: Rows) -> list[str]:
    """The warnings after the last of these rows of metrics.jsonl, which is an evaluation; [] while all is well.

    Each is given once, when it begins: the isometric term's gradient is more than HEAVY times the others'; the Frechet
    distance `fd` rises; recall falls; the discriminator wins, or gives the same answer for every image.
    """
    evaluations = [i for i, row in enumerate(rows) if row.get("fd") is not None]
    before = rows[: evaluations[-2] + 1] if len(evaluations) > 1 else []
    ratio, notes = _ratio(rows), []
    heavy = f"the isometric term's gradient is {ratio:.3g} times the others'"
    advice = "use --irl-weight auto or a smaller weight"
    if ratio > HEAVY and _ratio(before) <= HEAVY:
        notes.append(f"{heavy}: the images will suffer; {advice}")
    if _rising(rows) and not _rising(before):
        best = min((rows[i] for i in evaluations), key=lambda row: row["fd"])
        rates = "--lr or --alpha" if "sidl_loss" in rows[-1] else "--lr"  # a refinement has no alpha
        cause = f"{heavy}: {advice}" if ratio > HEAVY else f"if it goes on, lower {rates}"
        now = rows[evaluations[-1]]["fd"]
        notes.append(f"the Frechet distance rises, from {best['fd']:.4g} at step {best['step']} to {now:.4g}; {cause}")
    return notes + [note for note in _warnings(rows) if note not in _warnings(before)]


def _warnings(rows: Rows) -> list[str]:
    """The warnings that hold after these rows, without figures, so that they can be compared."""
    found = []
    recalls = [row["recall"] for row in rows if row.get("recall") is not None]
    if len(recalls) > 2 and max(recalls[-2:]) < FALLEN * max(recalls):
        found.append("recall has fallen: the generator makes less variety; lower --adversarial, or use best/")
    real, fake = _recent(rows, "accuracy_real"), _recent(rows, "accuracy_fake")
    if (real + fake) / 2 > WINS:
        found.append(
            "the discriminator tells real from generated images nearly always, so the generator learns little from it; "
            "lower --adversarial or --discriminator-lr"
        )
    elif abs(real - fake) > ONE_SIDED:
        found.append("the discriminator says the same of nearly every image; lower --discriminator-lr")
    return found


def _recent(rows: Rows, name: str) -> float:
    """The mean of a figure over the last logged steps; 0 when there is none."""
    values = [row[name] for row in rows if row.get(name) is not None][-20:]
    return sum(values) / len(values) if values else 0.0


def _ratio(rows: Rows) -> float:
    """The median ratio of the gradients over the last logged steps; 0 when there are none."""
    ratios = [row["irl_ratio"] for row in rows if row.get("irl_ratio") is not None]
    return median(ratios[-5:]) if ratios else 0.0


def _rising(rows: Rows) -> bool:
    """Whether the last two distances both lie RISE times above the best before them."""
    distances = [row["fd"] for row in rows if row.get("fd") is not None]
    return len(distances) > 2 and min(distances[-2:]) > RISE * min(distances[:-2])
