"""What a distillation step draws at random: a function of (seed, step, row) and of nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gsd_cli.core.noise import generator_for, normal_rows


class Draws:
    """Draws for one process's rows of the batch. A stream names what is drawn and in which step.

    rows: their numbers within the batch of all processes, which has `batch` rows; shape: (C, H, W).
    """

    def __init__(
        self, seed: int, batch: int, rows: Sequence[int], shape: Sequence[int], classes: int | None,
        device: torch.device,
    ):  # fmt: skip
        self.seed, self.batch, self.rows = seed, batch, rows
        self.shape, self.classes, self.device = shape, classes, device

    def normal(self, *stream: int | str) -> Tensor:
        """N(0, I), float32 [B, *shape]."""
        return normal_rows(self.rows, self.shape, self.seed, *stream).to(self.device)

    def sigma(self, draw: Callable[[int, torch.Generator], Tensor], *stream: int | str) -> Tensor:
        """Noise levels by `draw(n, random)`, [B]."""
        return draw(self.batch, generator_for(self.seed, *stream, "sigma"))[self.rows].to(self.device)

    def labels(self, *stream: int | str) -> Tensor | None:
        """Classes, uniform, int64 [B]; None for an unconditional teacher."""
        if not self.classes:
            return None
        return self.integers(self.classes, *stream, "class").to(self.device)

    def integers(self, below: int, *stream: int | str) -> Tensor:
        """Uniform in {0..below-1}, int64 [B], on the CPU."""
        return torch.randint(below, (self.batch,), generator=generator_for(self.seed, *stream))[self.rows]
