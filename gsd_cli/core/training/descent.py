"""One step of an optimizer that a gradient which is not finite cannot spoil, decided on the device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Descent(NamedTuple):
    """What a step did: float32 [] each, on the device of the parameters; nothing is read from it.

    skipped: 1.0 where the weights and the optimizer's state were kept, else 0.0. norm: the gradient's, before clipping.
    """

    skipped: Tensor
    norm: Tensor


def descend(
    module: nn.Module, optimizer: torch.optim.Optimizer, *finite: Tensor, clip: float | None = None,
    skip: Tensor | None = None,
) -> Descent:  # fmt: skip
    """Step once, unless the gradient of `module` or a tensor of `finite`, such as the loss, is not finite, or `skip`,
    what a step before it gave as `skipped`, is 1.

    clip: the largest norm a gradient keeps. A fused optimizer reads on the device whether to step (`found_inf`, as a
    GradScaler sets it), so the host does not wait; for another one the host reads it. Processes that average gradients
    take the same decision from them; what else is in `finite` must be the same in all of them.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    good = norm.isfinite()
    for value in finite:
        good = good & value.detach().isfinite().all().to(good.device)
    skipped = (~good).float()
    if skip is not None:
        skipped = torch.maximum(skipped, skip.to(skipped))
    if clip:
        nn.utils.clip_grads_with_norm_(parameters, clip, norm)
    if any(group.get("fused") for group in optimizer.param_groups):
        optimizer.found_inf = skipped  # type: ignore[attr-defined]
        try:
            optimizer.step()
        finally:
            del optimizer.found_inf  # type: ignore[attr-defined]
    elif not skipped.item():
        optimizer.step()
    return Descent(skipped, norm)
