"""The figure of benchmarks/distillation/geometry.py: Frechet distance against smoothness, a point for each variant."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

from matplotlib import colormaps
from matplotlib.figure import Figure

from benchmarks.distillation.geometry_page import Row, Variant, measured
from gsd_cli.base.atomic import atomic_file

COLOURS = colormaps["tab20"]
PANELS = {"ppl": "PPL", "speed_cv": "variation of the speed"}
SHORT = {
    " irl_gradient=manifold": "",
    " irl_phi=pixels": " px",
    " tau_max=1.2 tau_min=0.2": " wide",
    " irl_every=": " every ",
}
"""What a point's label says instead of settings that its marker or many others have."""


def draw_frontier(rows: list[Row], target: Path) -> None:
    """PPL and the variation of the speed against Frechet distance, means over seeds, a colour a form,
    diamonds for those with a gradient along the manifold; px: in pixels, wide: at angles of 0.2 to 1.2.

    The line joins the distillation alone, stopped at other lengths too (`off kimg=6`): a variant that lies on
    it gives what stopping earlier gives.
    """
    canvas = Figure(figsize=(12, 5), layout="constrained")
    wanted = measured(rows)
    kinds = list(dict.fromkeys(variant.kind for variant in wanted))
    for axes, (key, title) in zip(canvas.subplots(1, 2), PANELS.items(), strict=True):
        for place, kind in enumerate(kinds):
            mine = [variant for variant in wanted if variant.kind == kind]
            points = sorted((*means(rows, variant, key), variant.name) for variant in mine)
            form, *own = kind.split()
            colour = "black" if form == "off" else COLOURS(place % COLOURS.N)
            x, y, names = zip(*points, strict=True)
            marker, line = "D" if "irl_gradient=manifold" in own else "o", "-" if kind == "off" else ""
            axes.plot(x, y, marker=marker, markersize=5, color=colour, linestyle=line, label=kind)
            for point in zip(x, y, names, strict=True):
                label = short(point[2].removeprefix(form))
                axes.annotate(label, point[:2], (4, 3), textcoords="offset points", fontsize=6, color=colour)
        axes.set_xlabel("Frechet distance")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        axes.set_ylim(bottom=0)
    canvas.axes[1].legend(fontsize=7, loc="lower left")
    with atomic_file(target) as temporary:
        canvas.savefig(temporary, dpi=110)


def short(label: str) -> str:
    """A point's label, from what is left of its name: `-1 irl_phi=pixels` is `1 px`."""
    for words, instead in SHORT.items():
        label = label.replace(words, instead)
    return label.lstrip("- ")


def means(rows: list[Row], variant: Variant, key: str) -> tuple[float, float]:
    """A variant's Frechet distance and another figure, each the mean over its seeds."""
    mine = [row for row in rows if row["variant"] == variant.name]
    return mean(row["fd"] for row in mine), mean(row[key] for row in mine)
