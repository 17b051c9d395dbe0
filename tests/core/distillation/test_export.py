"""Which snapshot of a run is its best: the nearest one that has not lost variety."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gsd_cli.core.distillation.export import RECALL_SHARE, Exporter
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.models.teacher import Teacher
from gsd_cli.core.training.loop import Report
from gsd_cli.options import DistillOptions, DistillSettings


def report(step: int, fd: float, recall: float | None) -> Report:
    evaluation = {"fd": fd} | ({} if recall is None else {"recall": recall})
    return Report(step, 9, step, {}, evaluation, 0.0, 1.0, 0)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "run"


def exporter(run: Path, teacher: Denoiser) -> Exporter:
    settings = {**DistillSettings().model_dump(), "total_steps": 9}
    return Exporter(DistillOptions(), Teacher("toy", teacher, "toy"), run, settings, None, "FD")


def best_step(run: Path) -> int:
    step: int = json.loads((run / "best" / "gsd.json").read_text())["steps"]
    return step


def test_a_nearer_snapshot_with_less_variety_is_not_the_best(toy_teacher: Denoiser, run: Path) -> None:
    writer, average = exporter(run, toy_teacher), Generator(toy_teacher)
    writer.keep_best(average, report(1, 5.0, 0.8))
    assert best_step(run) == 1
    writer.keep_best(average, report(2, 4.0, RECALL_SHARE * 0.8 - 0.01))
    assert best_step(run) == 1, "nearer, but recall has fallen"
    writer.keep_best(average, report(3, 4.5, RECALL_SHARE * 0.8 + 0.01))
    assert best_step(run) == 3
    card = json.loads((run / "best" / "gsd.json").read_text())
    assert card["figures"]["recall"] == pytest.approx(RECALL_SHARE * 0.8 + 0.01)


def test_a_resumed_run_knows_the_variety_it_had(toy_teacher: Denoiser, run: Path) -> None:
    writer, average = exporter(run, toy_teacher), Generator(toy_teacher)
    writer.keep_best(average, report(1, 5.0, 0.8))
    rows = [{"step": 1, "fd": 5.0, "recall": 0.8}, {"step": 2, "fd": 6.0, "recall": 0.9}, {"step": 3}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = exporter(run, toy_teacher)
    assert (again.best, again.recall) == (5.0, 0.9)
    again.keep_best(average, report(4, 4.0, 0.8))
    assert best_step(run) == 1
    again.discard_best()
    again.keep_best(average, report(5, 9.0, 0.1))
    assert best_step(run) == 5


def test_without_recall_distance_alone_counts(toy_teacher: Denoiser, run: Path) -> None:
    writer, average = exporter(run, toy_teacher), Generator(toy_teacher)
    for step, fd in ((1, 5.0), (2, 6.0), (3, 4.0)):
        writer.keep_best(average, report(step, fd, None))
    assert best_step(run) == 3
