"""Runs single steps of a training and of the isometric term."""

from __future__ import annotations

import torch
from torch import Tensor

from gsd_cli.core.distillation.draws import Draws
from gsd_cli.core.distillation.isometric_term import IsometricTerm
from gsd_cli.core.distillation.latent_pairs import LatentBatch, row_order
from gsd_cli.core.models.condition import UNCONDITIONAL
from gsd_cli.core.training.loop import Task
from gsd_cli.core.training.report import read_all

GOOD = torch.zeros(())
"""No step before this one was skipped."""


def run_step(task: Task, step: int) -> dict[str, float]:
    """Run one step of a training; returns its metrics as numbers."""
    return read_all([task.step(step)])[0]


def weigh(term: IsometricTerm, rest: float, own: float, step: int) -> float:
    """The weight of the isometric term for these gradient norms."""
    term.begin(step)
    return float(term.weight(torch.tensor(own), torch.tensor(rest), step))


def place(term: IsometricTerm, z: Tensor, step: int) -> LatentBatch:
    """The latents of one step of the isometric term, for a complete batch z."""
    settings, batch = term.settings, len(z)
    rows = row_order(batch, settings.pair_every, term.world, term.group)
    return term.make_pairs(z, Draws(settings.seed, batch, rows, z.shape[1:], UNCONDITIONAL, z.device), step)
