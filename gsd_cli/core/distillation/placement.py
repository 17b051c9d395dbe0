"""Where the networks of a distillation are: whole on each process's device, or with `--shard` cut into pieces."""

from __future__ import annotations

from typing import cast

import torch

from gsd_cli.compute.sharding import Mould, shard
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import Generator
from gsd_cli.options import DistillSettings


def birthplace(settings: DistillSettings, device: torch.device) -> torch.device:
    """Where networks are built and copied: on the device, or on the CPU if the device is to get pieces alone."""
    return torch.device("cpu") if settings.shard else device


def place(network: Denoiser, settings: DistillSettings, device: torch.device) -> None:
    """Bring a network from its birthplace to the device; `--shard` leaves a piece of it in each process."""
    if settings.shard:
        shard(network, network.net, device, "encode", apart=network.kind.apart(network.net))


class WholeAverage:
    """The moving average as an ordinary module, which is evaluated and exported: itself, unless it is to be sharded.

    Of a sharded one it is a copy on the device of each process, kept until `forget`.
    """

    def __init__(self, average: Generator, settings: DistillSettings, device: torch.device):
        self._average, self._device = average, device
        self._mould = Mould(average) if settings.shard else None
        self._copy: Generator | None = None

    def get(self) -> Generator:
        """The module. All processes must call this together where there is no copy yet."""
        if self._mould is None:
            return self._average
        if self._copy is None:
            self._copy = cast("Generator", self._mould.cast(self._average, self._device)).eval()
        return self._copy

    def forget(self) -> None:
        """Free the copy, because the average is about to change."""
        self._copy = None
