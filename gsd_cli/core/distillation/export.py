"""What a distillation leaves behind: its newest and its best generator, and its curves."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

from gsd_cli.base.storage import read_json
from gsd_cli.base.versions import versions
from gsd_cli.catalogue.run_layout import BEST, CARD, CURVES, GENERATOR, METRICS_LOG
from gsd_cli.core.distillation.card import generator_card
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import Generator, save_generator
from gsd_cli.core.models.teacher import Teacher
from gsd_cli.core.training.curves import PANELS, draw_curves
from gsd_cli.core.training.log import read_metrics
from gsd_cli.core.training.report import Report
from gsd_cli.options import DistillOptions

VARIED = 0.95
"""A snapshot with less than this share of the highest recall so far is not the best, whatever its distance."""
FIGURES = ("fd", "precision", "recall", "coverage", "class_balance", "speed_cv", "spearman", "pair_distance")
"""What a generator's card keeps of its last evaluation."""


class Exporter:
    """Writes generator folders into a run; `settings` is the run's identity, `figure` its distance's name."""

    def __init__(
        self, options: DistillOptions, teacher: Teacher, folder: Path, settings: dict[str, Any],
        features: str | None, figure: str,
    ):  # fmt: skip
        self.options, self.teacher, self.folder = options, teacher, folder
        self.settings, self.features, self.figure = settings, features, figure
        self.best, self.recall = best_distance(folder), best_recall(folder)

    def forget(self) -> None:
        """Drop the best snapshot: the run starts again."""
        shutil.rmtree(self.folder / BEST, ignore_errors=True)
        self.best, self.recall = math.inf, 0.0

    def keep_best(self, average: Generator, report: Report) -> None:
        """Keep the moving average as the best so far, if it is nearest and its recall has not fallen."""
        distance, recall = report.evaluation.get("fd", math.inf), report.evaluation.get("recall", math.inf)
        varied = recall >= VARIED * self.recall
        self.recall = max(self.recall, recall) if math.isfinite(recall) else self.recall
        if distance < self.best and varied:
            row = {"step": report.step, "images": report.images, **report.evaluation}
            self._save(average, BEST, row)
            self.best = distance

    def finish(self, average: Generator) -> None:
        """The moving average as it is now, and the curves."""
        rows = read_metrics(self.folder / METRICS_LOG)
        self._save(average, GENERATOR, rows[-1] if rows else {"step": 0})
        draw_curves(self.folder / METRICS_LOG, self.folder / CURVES, self.figure)

    def rehearse(self, average: Generator) -> None:
        """What `finish` does, early, to be timed; there are no curves to draw yet, so some that are thrown away."""

        self.finish(average)
        with tempfile.TemporaryDirectory() as name:
            rows = [{"step": step, "images": step, **dict.fromkeys(PANELS, 1.0)} for step in range(2)]
            metrics = Path(name, METRICS_LOG)
            metrics.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            draw_curves(metrics, Path(name, CURVES), self.figure)

    def _save(self, average: Generator, name: str, row: dict[str, Any]) -> None:

        card = {
            "kind": "generator",
            "teacher": self.options.teacher,
            "teacher_source": self.teacher.source,
            "teacher_revision": self.teacher.revision,
            "features": self.features,
            "classes": list(self.teacher.class_names),
            "preset": self.options.preset,
            "parameters": _parameters(average.denoiser),
            "teacher_parameters": _parameters(self.teacher.denoiser),
            # before a run by the clock knows its length, it is as long as it is
            "settings": self.settings | {"total_steps": self.settings["total_steps"] or row["step"]},
            "steps": row["step"],
            "images": row.get("images", 0),
            "figures": {key: row[key] for key in FIGURES if key in row},
            "figure_name": self.figure,
            "eval_samples": self.options.eval_samples,
            "versions": versions(),
        }
        whole = Generator(average.denoiser, average.sigma_init, self.teacher.autoencoder)
        half = self.options.weights == "fp16"
        save_generator(whole, self.folder / name, card, generator_card(card), half=half)


def _parameters(network: Denoiser) -> int:
    return sum(p.numel() for p in network.parameters())


def best_distance(folder: Path) -> float:
    """The distance of a run's best snapshot; infinite when there is none."""
    path = folder / BEST / CARD
    card = read_json(path) if path.exists() else {}
    figures = card.get("figures", {}) if isinstance(card, dict) else {}
    distance = figures.get("fd") if isinstance(figures, dict) else None
    return float(distance) if isinstance(distance, int | float) else math.inf


def best_recall(folder: Path) -> float:
    """The highest recall of a run's evaluations so far; 0 when there is none."""
    recalls = [row.get("recall") for row in read_metrics(folder / METRICS_LOG)]
    return max((float(r) for r in recalls if isinstance(r, int | float)), default=0.0)
