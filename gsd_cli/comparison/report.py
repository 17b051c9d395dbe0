"""What `--report` writes: tables, images, JSON, and one page that shows them all."""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsd_cli.base.atomic import atomic_file
from gsd_cli.base.table import Table
from gsd_cli.base.text import format_number, format_seconds
from gsd_cli.base.versions import gsd_version
from gsd_cli.catalogue.run_layout import CURVES, METRICS_LOG
from gsd_cli.comparison.contenders import Row
from gsd_cli.comparison.figures import draw_pareto, draw_samples, draw_walks
from gsd_cli.comparison.gallery import Gallery
from gsd_cli.comparison.metric import Column
from gsd_cli.comparison.tables import NOT_RESOLVED, columns_of, comma_separated, latex, markdown, short_names
from gsd_cli.core.training.curves import draw_curves

TEMPLATE = Path(__file__).with_name("page.html.j2")


@dataclass(frozen=True)
class Headline:
    """A number in large type: its name, its value, and the two figures it compares."""

    name: str
    value: str
    detail: str


@dataclass(frozen=True)
class Illustration:
    """A PNG file with its title and caption."""

    path: Path
    title: str
    caption: str

    @property
    def data(self) -> str:
        """The file as a data URI."""
        return "data:image/png;base64," + base64.b64encode(self.path.read_bytes()).decode("ascii")


@dataclass(frozen=True)
class Findings:
    """The results of a bench.

    gallery: the model and its baselines; ablation: the variants, where there are any; run: the training's folder.
    """

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
    illustrations = _illustrations(folder, findings)
    written += [shown.path for shown in illustrations]
    write(
        "report.html", render(findings.title, headlines(findings.rows, findings.figure), findings.tables, illustrations)
    )
    return written


def headlines(rows: list[Row], figure: str) -> list[Headline]:
    """The model against the first baseline, where both have the figure: distances, path length, speed."""
    ours, first = rows[-1], rows[0]
    theirs_name, found = short_names([row.name for row in rows])[first.name], []
    for column in columns_of(rows, figure):
        mine, theirs = column.value(ours), column.value(first)
        if column.key not in ("fd", "ppl") or mine is None or not theirs:
            continue
        ratio = f"{mine / theirs:.2f} x" if column.resolved(ours, first) else NOT_RESOLVED
        detail = f"{_with_interval(column, ours)}; {theirs_name}: {_with_interval(column, first)}. Lower is better."
        found.append(Headline(column.title, ratio, detail))
    if ours.time is not None and first.time is not None:
        times = first.time.median / ours.time.median
        detail = f"{format_seconds(ours.time.median)} per image; {theirs_name}: {format_seconds(first.time.median)}."
        found.append(Headline("speed", f"{times:,.0f} x" if times >= 10 else f"{times:.1f} x", detail))
    return found


def _with_interval(column: Column, row: Row) -> str:
    """A figure with the ends of its interval, to three digits."""
    low_high = column.interval(row)
    ends = f" ({format_number(low_high[0])} to {format_number(low_high[1])})" if low_high else ""
    return format_number(column.value(row) or 0.0) + ends


def _illustrations(folder: Path, findings: Findings) -> list[Illustration]:
    """Draw samples, quality against time, walks and curves, where they were measured."""
    illustrations = [_samples(findings.gallery, folder / "figure1.png", "Figure 1")]
    names = short_names([row.name for row in findings.rows])
    points = {
        names[row.name]: (row.time.median, row.figures["fd"])
        for row in findings.rows
        if row.time and _finite(row, "fd")
    }
    if len(points) > 1:
        drawn = draw_pareto(points, findings.figure, folder / "pareto.png")
        illustrations.append(Illustration(drawn, "Quality against time", "Below and to the left is better."))
    illustrations += _walks(findings.gallery, folder / "walks.png", "Latent walks")
    if findings.ablation is not None:
        illustrations.append(_samples(findings.ablation, folder / "ablation.png", "The ablation"))
        illustrations += _walks(findings.ablation, folder / "ablation-walks.png", "Latent walks of the ablation")
    if findings.run is not None:
        curves = draw_curves(findings.run / METRICS_LOG, folder / CURVES, findings.figure)
        if curves is not None:
            illustrations.append(Illustration(curves, "Training", "Figures of the moving average during the run."))
    return illustrations


def _samples(gallery: Gallery, target: Path, title: str) -> Illustration:
    names = short_names(list(gallery.samples))
    drawn = draw_samples({names[name]: images for name, images in gallery.samples.items()}, target)
    return Illustration(drawn, title, f"Rows from above: {', '.join(gallery.samples)}; the same seeds in each.")


def _walks(gallery: Gallery, target: Path, title: str) -> list[Illustration]:
    if not gallery.walks:
        return []
    names, whose = short_names(list(gallery.walks)), ", then ".join(gallery.walks)
    drawn = draw_walks({names[name]: walks for name, walks in gallery.walks.items()}, target)
    return [Illustration(drawn, title, f"Equal steps between the same latents: {whose}.")]


def _finite(row: Row, key: str) -> bool:
    return math.isfinite(row.figures.get(key, math.nan))


def _keep_whole(cell: str) -> str:
    """A cell whose lines break neither between a figure and its unit nor at its error."""
    return re.sub(r"(?<=\d) (?=(?:±|µs|ms|s)(?!\w))|(?<=±) ", "\u00a0", cell)


def render(title: str, headlines: list[Headline], tables: list[Table], illustrations: list[Illustration]) -> str:
    """The page as HTML; every text is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["whole"] = _keep_whole
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        title=title, headlines=headlines, tables=tables, illustrations=illustrations, version=gsd_version()
    )
