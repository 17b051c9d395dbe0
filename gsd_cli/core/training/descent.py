"""A step of gradient descent: its learning rate, and an update that is skipped if the gradient is not finite."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gsd_cli.compute.sharding import local, total_norm


def trapezoid(step: int, total: int, warmup: int, decay: float) -> float:
    """Learning-rate factor: linear warm-up, flat, linear to zero over the last `decay` share.

    Flat in the middle so that a run can be lengthened from a checkpoint before the decay
    (Hagele et al. 2024, "Scaling laws and compute-optimal training beyond fixed durations").
    """
    up = (step + 1) / warmup if step < warmup else 1.0
    tail = decay * total
    down = (total - step) / tail if tail and step > total - tail else 1.0
    return min(up, down)


class Descent(NamedTuple):
    """The outcome of a step: float32 [] each, on the device of the parameters; the host reads neither.

    skipped: 1.0 if the weights and the optimizer's state were kept, else 0.0. norm: of the gradient, before clipping.
    """

    skipped: Tensor
    norm: Tensor


def descend(
    module: nn.Module, optimizer: torch.optim.Optimizer, *finite: Tensor, clip: float | None = None,
    skip: Tensor | None = None,
) -> Descent:  # fmt: skip
    """Step once, unless `skip` is 1, or the gradient of `module` or a tensor of `finite` (the loss) is not finite.

    clip: largest norm of the gradient. skip: the `skipped` of an earlier update. A fused optimizer reads on the device
    whether to step (`found_inf`, as a GradScaler sets it), so the host does not wait; for others the host reads it.
    Processes that average gradients decide alike; the tensors of `finite` must be equal in all of them. The norm of a
    sharded module is that of the whole gradient.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.grad is not None]
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = total_norm(gradients)
    good = norm.isfinite()
    for value in finite:
        good = good & value.detach().isfinite().all().to(good.device)
    skipped = (~good).float()
    if skip is not None:
        skipped = torch.maximum(skipped, skip.to(skipped))
    if clip:
        _clip(gradients, clip, norm)
    if any(group.get("fused") for group in optimizer.param_groups):
        optimizer.found_inf = skipped  # type: ignore[attr-defined]
        try:
            optimizer.step()
        finally:
            del optimizer.found_inf  # type: ignore[attr-defined]
    elif not skipped.item():
        optimizer.step()
    return Descent(skipped, norm)


def _clip(gradients: list[Tensor], largest: float, norm: Tensor) -> None:
    """Scale gradients of this norm so that it is `largest` at most, as `nn.utils.clip_grad_norm_` does."""
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_([local(gradient) for gradient in gradients], factor)
