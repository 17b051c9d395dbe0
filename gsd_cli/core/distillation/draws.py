"""The random numbers of a distillation step: a function of (seed, step, row) only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gsd_cli.compute.random import generator_for, normal_rows
from gsd_cli.core.models.condition import Condition

Draw = Callable[[int, torch.Generator], Tensor]


class Draws:
    """Random numbers for one process's rows of the batch. A stream names what is drawn and in which step.

    rows: their numbers within the batch of all processes, which has `batch` rows; shape: (C, H, W) of an image;
    conditions: all that images can be given, kept on `device`. The numbers are drawn on the CPU, so that they are the
    same for every device, and copied to `device`.
    """

    def __init__(
        self, seed: int, batch: int, rows: Sequence[int], shape: Sequence[int], conditions: Condition,
        device: torch.device,
    ):  # fmt: skip
        self.seed, self.batch, self.rows = seed, batch, rows
        self.shape, self.conditions, self.device = shape, conditions.to(device), device

    def normal(self, *stream: int | str, count: int | None = None) -> Tensor:
        """N(0, I), float32 [B, *shape]; only the first `count` rows if it is given."""
        return normal_rows(self.rows[:count], self.shape, self.seed, *stream).to(self.device)

    def sigma(self, draw: Draw, *stream: int | str) -> Tensor:
        """Noise levels by `draw(n, random)`, [B]."""
        return draw(self.batch, self._random(*stream, "sigma"))[self.rows].to(self.device)

    def uniform(self, *stream: int | str) -> Tensor:
        """Uniform in [0, 1), float32 [B]."""
        return torch.rand(self.batch, generator=self._random(*stream))[self.rows].to(self.device)

    def condition(self, *stream: int | str) -> Condition:
        """The condition of each image, uniform over all `conditions`."""
        return self.conditions.draw(lambda n: self.integers(n, *stream, "class", host=False))

    def integers(self, below: int, *stream: int | str, host: bool = True) -> Tensor:
        """Uniform in {0..below-1}, int64 [B], on the CPU if `host`, else on the device."""
        drawn = torch.randint(below, (self.batch,), generator=generator_for(self.seed, *stream))[self.rows]
        return drawn if host else drawn.to(self.device)

    def _random(self, *stream: int | str) -> torch.Generator:
        return generator_for(self.seed, *stream)


class DeviceDraws(Draws):
    """Random numbers from the device's own generator: nothing is copied, and they differ from the CPU's.

    The numbers of a batch are drawn together, so here they depend on its size too. All 64 bits of a seed count.
    """

    def __init__(
        self, seed: int, batch: int, rows: Sequence[int], shape: Sequence[int], conditions: Condition,
        device: torch.device,
    ):  # fmt: skip
        super().__init__(seed, batch, rows, shape, conditions, device)
        self._places = torch.tensor(rows, device=device)

    def normal(self, *stream: int | str, count: int | None = None) -> Tensor:
        """N(0, I), float32 [B, *shape]; only the first `count` rows if it is given."""
        random = self._random(*stream)
        return torch.randn(self.batch, *self.shape, generator=random, device=self.device)[self._places[:count]]

    def sigma(self, draw: Draw, *stream: int | str) -> Tensor:
        """Noise levels by `draw(n, random)`, [B]."""
        return draw(self.batch, self._random(*stream, "sigma"))[self._places]

    def uniform(self, *stream: int | str) -> Tensor:
        """Uniform in [0, 1), float32 [B]."""
        return torch.rand(self.batch, generator=self._random(*stream), device=self.device)[self._places]

    def integers(self, below: int, *stream: int | str, host: bool = True) -> Tensor:
        """Uniform in {0..below-1}, int64 [B], on the CPU if `host`, else on the device."""
        if host:
            return super().integers(below, *stream)
        drawn = torch.randint(below, (self.batch,), generator=self._random(*stream), device=self.device)
        return drawn[self._places]

    def _random(self, *stream: int | str) -> torch.Generator:
        return generator_for(self.seed, *stream, device=self.device)


def make_draws(
    kind: str, seed: int, batch: int, rows: Sequence[int], shape: Sequence[int], conditions: Condition,
    device: torch.device,
) -> Draws:  # fmt: skip
    """The random numbers of `--noise-device` KIND."""
    kinds = {"cpu": Draws, "device": DeviceDraws}
    return kinds[resolve_noise_device(kind, device)](seed, batch, rows, shape, conditions, device)


def resolve_noise_device(kind: str, device: torch.device) -> str:
    """Resolve `--noise-device`: `auto` is the CPU for a run on the CPU, else the device."""
    return kind if kind != "auto" else "cpu" if device.type == "cpu" else "device"
