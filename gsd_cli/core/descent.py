"""One step of Adam, taken only where it is finite; nothing here waits for the device."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def not_finite(*values: Tensor) -> Tensor:
    """1 where any number of any tensor is not finite, else 0: float32, no dimensions, on the tensors' device."""
    return 1 - torch.stack([value.detach().isfinite().all() for value in values]).all().float()


def descend(module: nn.Module, optimizer: torch.optim.Optimizer, bad: Tensor, clip: float | None = None) -> Tensor:
    """One step of a fused Adam, unless `bad` is 1 or a gradient is not finite: then weights and moments stay.

    bad: 0 or 1, as `not_finite` gives it; clip: the largest norm of the gradient, None for no limit. Returns 1 when
    the step was not taken, else 0. The optimizer decides on the device, by `found_inf`, as it does for a GradScaler.
    """
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    if not gradients:
        return bad
    norm = nn.utils.get_total_norm(gradients)
    if clip is not None:
        nn.utils.clip_grads_with_norm_(module.parameters(), clip, norm)
    bad = torch.maximum(bad, not_finite(norm))
    # read by torch.optim.Adam.step: not an argument of it
    optimizer.found_inf = bad  # type: ignore[attr-defined]
    optimizer.step()
    return bad
