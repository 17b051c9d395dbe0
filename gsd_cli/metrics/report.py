"""Rows of measurements as a table, Markdown, CSV, JSON and a picture."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gsd_cli.data.pictures import tile, to_pil
from gsd_cli.metrics.comparison import Row
from gsd_cli.paths import atomic_file
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


def table(rows: list[Row], figure: str, facts: Mapping[str, str]) -> Table:
    """The paper's Table 1: a line a model, and the last line's ratio to each baseline."""
    ours = rows[-1]
    columns = ["model", "calls"]
    cells = {row.name: [row.name, str(row.calls)] for row in rows}
    ratios = {row.name: [f"GSD / {row.name}", f"1/{row.calls}"] for row in rows[:-1]}

    def add(title: str, values: list[float | None], texts: list[str]) -> None:
        columns.append(title)
        for row, text in zip(rows, texts, strict=True):
            cells[row.name].append(text)
        last = values[-1]
        for row, value in zip(rows[:-1], values, strict=False):
            ratios[row.name].append(_ratio(last, value))

    for key, title in {"fd": figure, **TITLES}.items():
        values = [row.figures.get(key) for row in rows]
        if any(value is not None for value in values):
            add(title, values, [_cell(row, key) for row in rows])
    if ours.time is not None:
        times = [row.time.median if row.time else None for row in rows]
        add("time (s/image)", times, ["-" if t is None else f"{t:.4g}" for t in times])
    notes = [f"{name}: {fact}" for name, fact in facts.items()]
    return Table("Table 1", columns, [*cells.values(), *ratios.values()], notes)


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


def write_report(folder: Path, shown: Table, metrics: dict[str, Any], pictures: Mapping[str, Tensor]) -> list[Path]:
    """table1.md, table1.csv, bench.json and figure1.png (each model's samples a row, same seeds)."""
    buffer = io.StringIO()
    csv.writer(buffer).writerows([shown.columns, *shown.rows])
    texts = {
        "table1.md": markdown(shown),
        "table1.csv": buffer.getvalue(),
        "bench.json": json.dumps(metrics, indent=2) + "\n",
    }
    written = []
    for name, text in texts.items():
        with atomic_file(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
        written.append(folder / name)
    import torch

    picture = to_pil(torch.cat([tile(images, len(images)) for images in pictures.values()], 1))
    picture = picture.resize((picture.width * 2, picture.height * 2), resample=0)
    with atomic_file(folder / "figure1.png") as temporary:
        picture.save(temporary)
    return [*written, folder / "figure1.png"]
