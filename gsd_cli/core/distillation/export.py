"""Writes the results of a distillation: the newest and the best generator, and the curves."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from gsd_cli.base.storage import read_json
from gsd_cli.base.versions import versions
from gsd_cli.catalogue.run_layout import BEST, CARD, CURVES, GENERATOR, METRICS_LOG
from gsd_cli.core.distillation.card import generator_card
from gsd_cli.core.models.generator import Generator, describe_levels, save_generator
from gsd_cli.core.models.teacher import Teacher
from gsd_cli.core.training.curves import PANELS, draw_curves
from gsd_cli.core.training.log import read_metrics
from gsd_cli.core.training.report import Report
from gsd_cli.options import DistillOptions

RECALL_SHARE = 0.95
"""A snapshot cannot be the best if its recall is below this share of the highest recall so far."""
FIGURES = (
    "fd",
    "fd_error",
    "precision",
    "recall",
    "coverage",
    "class_balance",
    "speed_cv",
    "spearman",
    "pair_distance",
)
"""The figures of the last evaluation that a generator's card holds."""


class Exporter:
    """Writes generator folders into a run.

    settings: the run's identity. features: the features of its distance. figure: the name of the distance.
    """

    def __init__(
        self, options: DistillOptions, teacher: Teacher, folder: Path, settings: dict[str, Any],
        features: str | None, figure: str,
    ):  # fmt: skip
        self.options, self.teacher, self.folder = options, teacher, folder
        self.settings, self.features, self.figure = settings, features, figure
        self.best, self.recall = read_best_distance(folder), read_best_recall(folder)

    def discard_best(self) -> None:
        """Delete the best snapshot, because the run starts again."""
        shutil.rmtree(self.folder / BEST, ignore_errors=True)
        self.best, self.recall = math.inf, 0.0

    def keep_best(self, average: Generator, report: Report) -> None:
        """Save the moving average as the best snapshot if its distance is the smallest and its recall did not fall."""
        distance, recall = report.evaluation.get("fd", math.inf), report.evaluation.get("recall", math.inf)
        varied = recall >= RECALL_SHARE * self.recall
        self.recall = max(self.recall, recall) if math.isfinite(recall) else self.recall
        if distance < self.best and varied:
            row = {"step": report.step, "images": report.images, **report.evaluation}
            self._save(average, BEST, row)
            self.best = distance

    def export(self, average: Generator) -> None:
        """Write the current moving average and the curves."""
        rows = read_metrics(self.folder / METRICS_LOG)
        self._save(average, GENERATOR, rows[-1] if rows else {"step": 0})
        draw_curves(self.folder / METRICS_LOG, self.folder / CURVES, self.figure)

    def rehearse(self, average: Generator) -> None:
        """Do the work of `export`, so that its time can be measured. As there are no curves yet, draw made-up ones."""
        self.export(average)
        with tempfile.TemporaryDirectory() as name:
            rows = [{"step": step, "images": step, **dict.fromkeys(PANELS, 1.0)} for step in range(2)]
            metrics = Path(name, METRICS_LOG)
            metrics.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            draw_curves(metrics, Path(name, CURVES), self.figure)

    def _save(self, average: Generator, name: str, row: dict[str, Any]) -> None:
        generator = average.decoded_by(self.teacher.autoencoder)
        card = {
            **describe_levels(generator),
            "kind": "generator",
            "teacher": self.options.teacher,
            "teacher_source": self.teacher.source,
            "teacher_revision": self.teacher.revision,
            "teacher_reading": self.teacher.reading,
            "features": self.features,
            "network": self.teacher.denoiser.kind.class_names[0],
            "classes": list(self.teacher.class_names),
            "preset": self.options.preset,
            "parameters": _count_parameters(average),
            "teacher_parameters": _count_parameters(self.teacher.denoiser),
            # a run by the clock may not know its length yet: it is the steps so far
            "settings": self.settings | {"total_steps": self.settings["total_steps"] or row["step"]},
            "steps": row["step"],
            "images": row.get("images", 0),
            "figures": {key: row[key] for key in FIGURES if key in row},
            "figure_name": self.figure,
            "eval_samples": self.options.eval_samples,
            "versions": versions(),
        }
        half = self.options.weights == "fp16"
        save_generator(
            generator, self.folder / name, card, generator_card(card), half=half, prompts=self.teacher.prompts
        )


def _count_parameters(network: nn.Module) -> int:
    return sum(value.numel() for name, value in network.named_parameters() if ".lora_" not in name)


def read_best_distance(folder: Path) -> float:
    """The distance of a run's best snapshot; infinite if there is none."""
    path = folder / BEST / CARD
    card = read_json(path) if path.exists() else {}
    figures = card.get("figures", {}) if isinstance(card, dict) else {}
    distance = figures.get("fd") if isinstance(figures, dict) else None
    return float(distance) if isinstance(distance, int | float) else math.inf


def read_best_recall(folder: Path) -> float:
    """The highest recall of a run's evaluations so far; 0 if there is none."""
    recalls = [row.get("recall") for row in read_metrics(folder / METRICS_LOG)]
    return max((float(r) for r in recalls if isinstance(r, int | float)), default=0.0)
