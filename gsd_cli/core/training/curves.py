"""curves.png: the course of a distillation."""

from __future__ import annotations

from pathlib import Path

from gsd_cli.base.atomic import atomic_file
from gsd_cli.core.training.log import read_metrics

PANELS = {
    "fd": "Frechet distance",
    "speed_cv": "variation of the speed",
    "irl_weight": "weight of the isometric term",
    "fake_loss": "fake-score loss",
}


def draw_curves(metrics: Path, target: Path, figure: str) -> Path | None:
    """Plot the rows of metrics.jsonl; `figure` names the Frechet distance. None if there are none."""
    rows = read_metrics(metrics)
    panels = [key for key in PANELS if sum(key in row for row in rows) > 1]
    if not panels:
        return None
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    canvas = Figure(figsize=(4 * len(panels), 3), layout="constrained")
    for axes, key in zip(canvas.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        points = [(row["images"] / 1000, row[key]) for row in rows if row.get(key) is not None]
        axes.plot(*zip(*points, strict=True), marker="." if len(points) < 60 else None, color="#3060a0")
        axes.set_title(figure if key == "fd" else PANELS[key], fontsize=10)
        axes.set_xlabel("thousand images")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    with atomic_file(target) as temporary:
        canvas.savefig(temporary, dpi=110)
    return target
