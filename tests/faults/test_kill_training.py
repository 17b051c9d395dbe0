"""SIGKILL at random moments: a real process dies, its run goes on, and ends as if nothing had happened."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.training.checkpoint import CheckpointStore
from gsd_cli.core.training.loop import train
from gsd_cli.core.training.report import Cadence
from gsd_cli.options import DistillSettings
from tests.support.timeless import timeless

STEPS = 40
KILLS = int(os.environ.get("GSD_TEST_KILLS", "3"))
EVERY = Cadence(evaluate_steps=4, log_steps=1, checkpoint_seconds=0.0)


def work(teacher: Denoiser, run: Path) -> None:
    torch.set_num_threads(1)
    settings = DistillSettings(batch_size=8)
    task = Distillation(teacher, settings, STEPS, torch.device("cpu"), lambda g, s: {"fd": 1.0 + s})
    for _ in train(task, STEPS, run, EVERY):
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.fault(1, "SIGKILL at random moments of a training")
def test_killed_at_random_moments_a_run_ends_bit_identical(toy_teacher: Denoiser, tmp_path: Path) -> None:
    context, chance = multiprocessing.get_context("fork"), random.Random(4)
    work(toy_teacher, tmp_path / "straight")
    run, killed, length = tmp_path / "killed", 0, 1.5
    for _ in range(4 * KILLS):
        process = context.Process(target=work, args=(toy_teacher, run))
        process.start()
        process.join(chance.uniform(0.0, length) if killed < KILLS else None)
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            killed += process.exitcode == -signal.SIGKILL
        elif process.exitcode == 0 and killed >= KILLS:
            break
        if process.exitcode == 0 and killed < KILLS:  # it was through too soon: start again, kill earlier
            length *= 0.7
            run = tmp_path / f"killed-{killed}-{time.monotonic_ns()}"
    assert killed >= KILLS
    expected, found = (CheckpointStore(folder / "checkpoints").latest() for folder in (tmp_path / "straight", run))
    assert expected[0] is not None and found[0] is not None and found[1] == []
    assert found[0].step == STEPS
    assert all(torch.equal(expected[0].tensors[key], found[0].tensors[key]) for key in expected[0].tensors)
    assert timeless(run) == timeless(tmp_path / "straight")
    left = [path.name for path in run.rglob("*") if path.name.startswith(".") and path.name != ".lock"]
    assert not left, "half-written folders are swept"
