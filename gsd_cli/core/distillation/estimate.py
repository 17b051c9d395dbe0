"""Estimates of what a distillation will need: memory by counting, time by measuring one call."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gsd_cli.base.launcher import process_count
from gsd_cli.compute.device import autocast, choose_precision, synchronize
from gsd_cli.compute.distributed import World
from gsd_cli.core.distillation.costs import costs_of
from gsd_cli.core.distillation.growth import grow
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.options import DistillSettings

FEWEST, TRIED = 2, 8
"""Images in the two calls that are timed on a CPU; the second is an upper limit."""


@dataclass(frozen=True)
class Estimate:
    """What one process of a run needs.

    parameters: of the teacher; student_parameters: of the generator; state_bytes: weights, gradients and
    optimizers, with `--shard` its piece of them; activation_bytes: what the backward passes of a generator step
    keep, float32; seconds_per_step: by a forward call of each size of network on this machine.
    """

    parameters: int
    student_parameters: int
    state_bytes: int
    activation_bytes: int
    seconds_per_step: float


def estimate(
    teacher: Denoiser, settings: DistillSettings, device: torch.device, world: World | None = None, first_calls: int = 0
) -> Estimate:
    """Memory and time of a distillation of `teacher` with these settings. first_calls: see `DistillationCosts`. Raises
    GsdError (exit 2) if the teacher cannot be grown to the student's size."""
    share = max(1, settings.batch_size // (world or World()).size)
    together = min(share, settings.micro_batch or share)
    parameters = own = sum(p.numel() for p in teacher.parameters())
    kept = own_kept = activation_bytes(teacher, recompute=settings.recompute)
    precision = _choose(teacher, settings, device, min(FEWEST, together))
    forward = own_forward = seconds_per_call(teacher, device, together, precision)
    if max(settings.student_width, settings.student_depth) > 1:
        student = grow(teacher, settings.student_width, settings.student_depth)
        own = sum(p.numel() for p in student.parameters())
        own_kept = activation_bytes(student, recompute=settings.recompute)
        own_forward = seconds_per_call(student, device, together, precision)
    costs = costs_of(settings, first_calls)
    state = costs.state_bytes(teacher, precision, own, device)
    state = state // process_count() if settings.shard else state
    activations = together * (settings.student_steps * own_kept + costs.judging_graphs * kept)
    others = costs.passes - costs.generator_passes
    seconds = share / together * (others * forward + costs.generator_passes * own_forward)
    return Estimate(parameters, own, state, activations, seconds)


def activation_bytes(model: Denoiser, *, recompute: bool) -> int:
    """Bytes that the backward pass of one image keeps, counted on a network without storage."""
    net = copy.deepcopy(model.net).to("meta").requires_grad_(True)
    if recompute:
        net.enable_gradient_checkpointing()
    weights = {p.untyped_storage()._cdata for p in net.parameters()}
    seen: dict[int, int] = {}
    kept: list[Tensor] = []  # while these exist, no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            seen[storage._cdata] = storage.nbytes()
            kept.append(tensor)
        return tensor

    # two batch sizes, since some layers save tensors that do not depend on it
    totals = []
    for batch in (1, 2):
        seen.clear()
        x = torch.empty(batch, *model.shape, device="meta", requires_grad=True)
        condition = model.conditions.first(batch).to("meta")
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = model.kind.call(net, x, torch.ones(batch, device="meta"), condition)
        totals.append(sum(seen.values()))
        del output
    return totals[1] - totals[0]


def seconds_per_call(model: Denoiser, device: torch.device, batch: int, precision: str) -> float:
    """Seconds of a forward call of `batch` images in a precision.

    On a GPU the call itself is timed, since small batches take as long as large ones. On a CPU that may take long: two
    smaller sizes are timed there and extrapolated.
    """
    if device.type != "cpu" or batch <= FEWEST:
        return seconds_of(model, device, batch, precision)
    few, many = FEWEST, min(TRIED, batch)
    small, large = (seconds_of(model, device, size, precision) for size in (few, many))
    each = max(0.0, large - small) / (many - few)
    return large + each * (batch - many)


@torch.no_grad()
def seconds_of(model: Denoiser, device: torch.device, batch: int, precision: str) -> float:
    """Seconds of one forward call of `batch`, the better of two after a warm-up."""
    net: nn.Module = copy.deepcopy(model.net).to(device).eval()
    x = torch.zeros(batch, *model.shape, device=device)
    condition = model.conditions.first(batch).to(device)
    taken = []
    for _ in range(3):
        synchronize(device)
        start = time.perf_counter()
        with autocast(device, precision):
            model.kind.call(net, x, torch.ones(batch, device=device), condition)
        synchronize(device)
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


def _choose(model: Denoiser, settings: DistillSettings, device: torch.device, batch: int) -> str:
    """The precision that a run would choose, measured on fewer images."""
    net = copy.deepcopy(model).to(device).requires_grad_(True)
    x = torch.zeros(batch, *model.shape, device=device)
    condition = model.conditions.first(batch).to(device)

    def train() -> None:
        net(x, per_image(1.0, x), condition).float().square().mean().backward()

    return choose_precision(settings.precision, device, train)[0]
