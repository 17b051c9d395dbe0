"""Drawings of figures: speeds, angles, walks and quality against time, side by side for several generators."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gsd_cli.base.atomic import atomic_file
from gsd_cli.core.latents.walks import Embed
from gsd_cli.data.pixels import enlarge, tile, to_pil
from gsd_cli.metrics.isometry import Paths, great_circles
from gsd_cli.metrics.path_length import Images

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CIRCLES, POINTS = 6, 65
COLOUR = "#3060a0"
MIN_FONT, MAX_FONT, PADDING = 11, 24, 8
"""Sizes of the names of rows, in pixels, and the space around them."""
WIDE = 10
"""The ratio of distances from which they are drawn on a logarithmic scale."""


def circle_speeds(images: Images, embed: Embed, shape: tuple[int, int, int], seed: int = 0) -> Paths:
    """Whole random great circles, for `draw_speeds`."""
    angles = torch.linspace(0, 2 * math.pi, POINTS).repeat(CIRCLES, 1)
    return great_circles(images, embed, shape, angles, seed)


def draw_speeds(circles: Mapping[str, Paths], target: Path) -> Path:
    """The speed along great circles in units of its mean, a panel per generator; flat is isometric."""
    canvas, panels = _panels(len(circles))
    for axes, (name, found) in zip(panels, circles.items(), strict=True):
        turns = found.angles[:, 1:] - found.angles[:, :-1]
        speed = found.lengths / turns
        middle = (found.angles[:, 1:] + found.angles[:, :-1]) / 2
        axes.plot(middle.T, (speed / speed.mean()).T, linewidth=0.8)
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set_title(f"{name}: CV along circles {(speed.std() / speed.mean()).item():.2f}", fontsize=10)
        axes.set_xlabel("angle along the circle, rad")
    panels[0].set_ylabel("speed / mean speed")
    return _save(canvas, target)


def draw_angles(paths: Mapping[str, Paths], target: Path) -> Path:
    """Angle theta between latents against g, the length of the path between their images."""
    canvas, panels = _panels(len(paths))
    for axes, (name, found) in zip(panels, paths.items(), strict=True):
        theta, g = found.angles[:, -1], found.lengths.sum(1)
        axes.scatter(theta, g, s=6, color=COLOUR)
        slope = ((g @ theta) / (theta @ theta)).item()
        axes.plot([0, math.pi / 2], [0, slope * math.pi / 2], color="black", linewidth=0.8)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("theta, rad")
    panels[0].set_ylabel("g")
    return _save(canvas, target)


def draw_pareto(points: Mapping[str, tuple[float, float]], figure: str, target: Path) -> Path:
    """Each model's seconds per image and distance; models that no other beats in both are joined by a line."""
    canvas, (axes,) = _panels(1)
    canvas.set_size_inches(6, 4)
    axes.plot(
        *zip(*undominated(list(points.values())), strict=True), color="#909090", linewidth=0.8, drawstyle="steps-post"
    )
    for name, (seconds, distance) in points.items():
        axes.scatter([seconds], [distance], s=24, color=COLOUR)
        axes.annotate(name, (seconds, distance), textcoords="offset points", xytext=(5, 5), fontsize=8)
    axes.margins(x=0.2, y=0.12)
    distances = [distance for _, distance in points.values()]
    if min(distances) > 0 and max(distances) > WIDE * min(distances):
        _scale_by_factors(axes, "y")
    else:
        axes.set_ylim(bottom=0)
    _scale_by_factors(axes, "x")
    axes.set_xlabel("seconds an image")
    axes.set_ylabel(figure)
    axes.grid(alpha=0.3)
    return _save(canvas, target)


def undominated(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other one equals or undercuts in both coordinates, in order."""
    return sorted(p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points))


def _scale_by_factors(axes: Axes, name: Literal["x", "y"]) -> None:
    """A logarithmic scale with plain numbers at the powers of ten, over few of them also at their double and half."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set(**{f"{name}scale": "log"})
    axis = axes.xaxis if name == "x" else axes.yaxis
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


def draw_samples(samples: Mapping[str, Tensor], target: Path, scale: int = 2) -> Path:
    """A row of images [columns, C, H, W] per generator, with its name to the left of the row."""
    return _draw_rows(list(samples.items()), target, scale)


def draw_walks(walks: Mapping[str, Sequence[Tensor]], target: Path) -> Path:
    """Walks [frames, C, H, W] as named rows: each walk by every generator in turn, in the mapping's order."""
    groups = zip(*walks.values(), strict=True)
    return _draw_rows([row for group in groups for row in zip(walks, group, strict=True)], target, scale=2)


def _draw_rows(rows: Sequence[tuple[str, Tensor]], target: Path, scale: int) -> Path:
    """Rows of images [columns, C, H, W], each with its name to its left, in black on white."""
    columns = len(rows[0][1])
    tiled = to_pil(enlarge(tile(torch.cat([images for _, images in rows]), columns), scale)).convert("RGB")
    height = tiled.height // len(rows)
    font = ImageFont.load_default(min(MAX_FONT, max(MIN_FONT, height // 3)))
    margin = math.ceil(max(font.getlength(name) for name, _ in rows)) + 2 * PADDING
    canvas = Image.new("RGB", (margin + tiled.width, tiled.height), "white")
    canvas.paste(tiled, (margin, 0))
    pen = ImageDraw.Draw(canvas)
    for row, (name, _) in enumerate(rows):
        pen.text((margin - PADDING, (row + 0.5) * height), name, "black", font, anchor="rm")
    with atomic_file(target) as temporary:
        canvas.save(temporary)
    return target


def _panels(count: int) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    canvas = Figure(figsize=(4 * count, 3.2), layout="constrained")
    return canvas, list(canvas.subplots(1, count, squeeze=False, sharey=True)[0])


def _save(canvas: Figure, target: Path) -> Path:
    with atomic_file(target) as temporary:
        canvas.savefig(temporary, dpi=110)
    return target
