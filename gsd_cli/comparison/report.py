"""What `--report` writes: tables, pictures, JSON, and one page that shows them all."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gsd_cli.base.atomic import atomic_file
from gsd_cli.base.table import Table
from gsd_cli.catalogue.run_layout import CURVES, METRICS_LOG
from gsd_cli.comparison.contenders import Row
from gsd_cli.comparison.figures import draw_pareto, draw_walks
from gsd_cli.comparison.gallery import Gallery
from gsd_cli.comparison.page import Headline, Picture, render
from gsd_cli.comparison.tables import comma_separated, latex, markdown
from gsd_cli.core.training.curves import draw_curves
from gsd_cli.data.pixels import save_grid


@dataclass(frozen=True)
class Findings:
    """What a bench found. gallery: the model and what it is compared with; ablation: the variants, where
    there are any; run: where the model was trained."""

    title: str
    figure: str
    rows: list[Row]
    tables: list[Table]
    metrics: dict[str, Any]
    gallery: Gallery
    ablation: Gallery | None = None
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
    further = [name for name in ours.distances if name != figure]
    compared = [
        (figure, ours.figures.get("fd"), first.figures.get("fd")),
        *((name, ours.distances[name].get("fd"), first.distances.get(name, {}).get("fd")) for name in further),
        ("PPL", ours.figures.get("ppl"), first.figures.get("ppl")),
    ]
    for name, mine, theirs in compared:
        if mine is not None and theirs:
            found.append(Headline(name, f"{mine / theirs:.2f} x", f"{mine:.3g}, {first.name} has {theirs:.3g}"))
    if ours.time is not None and first.time is not None:
        times = first.time.median / ours.time.median
        text = f"{1000 * ours.time.median:.3g} ms an image, {first.name} takes {1000 * first.time.median:.3g} ms"
        found.append(Headline("speed", f"{times:,.0f} x" if times >= 10 else f"{times:.1f} x", text))
    return found


def _pictures(folder: Path, findings: Findings) -> list[Picture]:
    """Draw what there is to draw."""
    pictures = [_samples(findings.gallery, folder / "figure1.png", "Figure 1")]
    points = {
        row.name: (row.time.median, row.figures["fd"]) for row in findings.rows if row.time and _finite(row, "fd")
    }
    if len(points) > 1:
        drawn = draw_pareto(points, findings.figure, folder / "pareto.png")
        pictures.append(Picture(drawn, "Quality against time", "Below and to the left is better."))
    pictures += _walks(findings.gallery, folder / "walks.png", "Latent walks")
    if findings.ablation is not None:
        pictures.append(_samples(findings.ablation, folder / "ablation.png", "The ablation"))
        pictures += _walks(findings.ablation, folder / "ablation-walks.png", "Latent walks of the ablation")
    if findings.run is not None:
        curves = draw_curves(findings.run / METRICS_LOG, folder / CURVES, findings.figure)
        if curves is not None:
            pictures.append(Picture(curves, "Training", "Figures of the moving average during the run."))
    return pictures


def _samples(gallery: Gallery, target: Path, title: str) -> Picture:
    columns = len(next(iter(gallery.samples.values())))
    drawn = save_grid(torch.cat(list(gallery.samples.values())), target, columns, scale=2)
    return Picture(drawn, title, f"Rows from above: {', '.join(gallery.samples)}; the same seeds in each.")


def _walks(gallery: Gallery, target: Path, title: str) -> list[Picture]:
    if not gallery.walks:
        return []
    whose = ", then ".join(gallery.walks)
    return [Picture(draw_walks(gallery.walks, target), title, f"Equal steps between the same latents: {whose}.")]


def _finite(row: Row, key: str) -> bool:
    return math.isfinite(row.figures.get(key, math.nan))
