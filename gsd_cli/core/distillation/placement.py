"""Where the networks of a distillation are: whole on each process's device, or with `--shard` cut into pieces."""

from __future__ import annotations

import copy
from typing import cast

import torch

from gsd_cli.compute.device import DTYPES, cast_for_autocast, to_device
from gsd_cli.compute.sharding import Mould, shard
from gsd_cli.core.models.adapters import on_base
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import Generator
from gsd_cli.options import DistillSettings


def birthplace(settings: DistillSettings, device: torch.device) -> torch.device:
    """Where networks are built and copied: on the device, or on the CPU if the device is to get pieces alone."""
    return torch.device("cpu") if settings.shard else device


def calls_float32(settings: DistillSettings, precision: str) -> bool:
    """Whether a step calls the teacher, or a generator with adapters on its weights, in float32.

    In a bf16 autocast, convolutions and linear layers cast their weights to bf16. A network on weights that were cast
    ahead gives the same numbers. The isometric term has no autocast: it calls the generator, and the teacher as its
    feature map, with all digits, and for these two the weights stay float32. With `--shard` they do in any case.
    """
    if precision not in DTYPES or settings.shard:
        return True
    if settings.irl == "off" or settings.irl_weight == 0:
        return False
    return settings.irl_phi == "teacher" or settings.adapter_ranks()[0] > 0


def place_teacher(teacher: Denoiser, settings: DistillSettings, device: torch.device) -> tuple[Denoiser, Denoiser]:
    """The frozen teacher in float32, and in the run's precision; in fp32 they are one. Both are whole.

    In bf16 the first is the given one itself, or the device would hold it twice: an evaluation may measure in its
    features. It waits on the CPU if no step calls it.
    """
    home = birthplace(settings, device)
    if settings.precision not in DTYPES or settings.shard:
        own = to_device(copy.deepcopy(teacher), home).eval().requires_grad_(False)
        return own, cast_for_autocast(own, settings.precision)
    teacher.eval().requires_grad_(False)
    teacher = to_device(teacher, home) if calls_float32(settings, settings.precision) else teacher.to("cpu")
    return teacher, to_device(cast_for_autocast(teacher, settings.precision), home)


def place(network: Denoiser, settings: DistillSettings, device: torch.device) -> None:
    """Bring a network from its birthplace to the device; `--shard` leaves a piece of it in each process."""
    if settings.shard:
        shard(network, network.net, device, "encode", apart=network.kind.apart(network.net))


class WholeAverage:
    """The moving average as an ordinary module in float32, which is evaluated and exported: itself, if it is one.

    Of a sharded one it is a copy on the device of each process, kept until `forget`. teacher: in float32; low: in the
    run's precision. If the teacher waits on the CPU, it is brought to the device for as long, and adapters on the
    weights of `low` get its own.
    """

    def __init__(
        self, average: Generator, settings: DistillSettings, device: torch.device, teacher: Denoiser, low: Denoiser
    ):  # fmt: skip
        self._average, self._device, self._teacher, self._low = average, device, teacher, low
        self._mould = Mould(average) if settings.shard else None
        self._waits = not calls_float32(settings, settings.precision)
        self._copy: Generator | None = None

    def get(self) -> Generator:
        """The module. All processes must call this together where there is no copy yet."""
        if self._copy is None:
            self._copy = self._make()
        return self._copy

    def _make(self) -> Generator:
        if self._mould is not None:
            return cast("Generator", self._mould.cast(self._average, self._device)).eval()
        if self._waits:
            to_device(self._teacher, self._device)
            return on_base(self._average, self._low, self._teacher)
        return self._average

    def forget(self) -> None:
        """Free the copy, because the average is about to change."""
        if self._waits and self._copy is not None:
            self._teacher.to("cpu")
        self._copy = None
