"""A distillation as its last checkpoint left it, to be looked at."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from gsd_cli.core.distillation.run_folder import VALUES_BEFORE
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.core.training.checkpoint import CheckpointStore
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.options import DistillSettings


def restore(run: Path, device: torch.device, data: ImageArchive) -> tuple[Distillation, int]:
    """The distillation of a run folder and the steps it has done. Exits where there is no checkpoint."""
    recorded = json.loads((run / "options.json").read_text(encoding="utf-8"))
    settings = {k: v for k, v in (VALUES_BEFORE | recorded).items() if k in DistillSettings.model_fields}
    teacher = load_teacher(recorded["teacher"], offline=True).denoiser
    total = recorded["total_steps"]
    task = Distillation(teacher, DistillSettings(**settings), total, device, lambda *_: {}, data=data)
    checkpoint, _ = CheckpointStore(run / "checkpoints").latest()
    if checkpoint is None:
        raise SystemExit(f"{run} has no checkpoint")
    task.load(checkpoint.tensors)
    return task, checkpoint.step
