"""What `--report` writes: tables, pictures, JSON, and one page that shows them all."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gsd_cli.data.pictures import save_grid
from gsd_cli.metrics.comparison import Row
from gsd_cli.metrics.curves import draw_curves
from gsd_cli.metrics.drawings import draw_pareto, draw_walks
from gsd_cli.metrics.page import Headline, Picture, render
from gsd_cli.metrics.tables import comma_separated, latex, markdown
from gsd_cli.table import Table
from gsd_cli.writing import atomic_file


@dataclass(frozen=True)
class Findings:
    """What a bench found. samples: each model's images of the same seeds, baselines first; walks: each
    generator's latent walks [frames, C, H, W] between the same latents; run: where it was trained."""

    title: str
    figure: str
    rows: list[Row]
    tables: list[Table]
    metrics: dict[str, Any]
    samples: Mapping[str, Tensor]
    walks: Mapping[str, Sequence[Tensor]] = field(default_factory=dict)
    run: Path | None = None


def write_report(folder: Path, findings: Findings) -> list[Path]:
    """Write everything into `folder`; returns the paths, the page last."""
    written = []

    def write(name: str, text: str) -> None:
        with atomic_file(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
        written.append(folder / name)

    for shown in findings.tables:
        for suffix, form in (("md", markdown), ("csv", comma_separated), ("tex", latex)):
            write(f"{shown.title.lower().replace(' ', '')}.{suffix}", form(shown))
    write("bench.json", json.dumps(findings.metrics, indent=2) + "\n")
    pictures = _pictures(folder, findings)
    written += [picture.path for picture in pictures]
    write("report.html", render(findings.title, headlines(findings.rows, findings.figure), findings.tables, pictures))
    return written


def headlines(rows: list[Row], figure: str) -> list[Headline]:
    """The model against the first baseline, where both have the figure; less is better for all but speed."""
    ours, first = rows[-1], rows[0]
    found = []
    for key, name in (("fd", figure), ("ppl", "PPL")):
        mine, theirs = ours.figures.get(key), first.figures.get(key)
        if mine is not None and theirs:
            found.append(Headline(name, f"{mine / theirs:.2f} x", f"{mine:.3g}, {first.name} has {theirs:.3g}"))
    if ours.time is not None and first.time is not None:
        times = first.time.median / ours.time.median
        text = f"{1000 * ours.time.median:.3g} ms an image, {first.name} takes {1000 * first.time.median:.3g} ms"
        found.append(Headline("speed", f"{times:,.0f} x" if times >= 10 else f"{times:.1f} x", text))
    return found


def _pictures(folder: Path, findings: Findings) -> list[Picture]:
    """Draw what there is to draw."""
    names = list(findings.samples)
    columns = len(next(iter(findings.samples.values())))
    figure = save_grid(torch.cat(list(findings.samples.values())), folder / "figure1.png", columns, scale=2)
    pictures = [Picture(figure, "Figure 1", f"Rows from above: {', '.join(names)}; the same seeds in each.")]
    points = {
        row.name: (row.time.median, row.figures["fd"]) for row in findings.rows if row.time and _finite(row, "fd")
    }
    if len(points) > 1:
        drawn = draw_pareto(points, findings.figure, folder / "pareto.png")
        pictures.append(Picture(drawn, "Quality against time", "Below and to the left is better."))
    if findings.walks:
        drawn = draw_walks(findings.walks, folder / "walks.png")
        whose = ", then ".join(findings.walks)
        pictures.append(Picture(drawn, "Latent walks", f"Equal steps between the same latents: {whose}."))
    if findings.run is not None:
        curves = draw_curves(findings.run / "metrics.jsonl", folder / "curves.png", findings.figure)
        if curves is not None:
            pictures.append(Picture(curves, "Training", "Figures of the moving average during the run."))
    return pictures


def _finite(row: Row, key: str) -> bool:
    return math.isfinite(row.figures.get(key, math.nan))
