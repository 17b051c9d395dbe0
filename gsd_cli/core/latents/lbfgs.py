"""L-BFGS on the spheres that latents live on, for a batch of independent problems at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gsd_cli.core.models.sphere import tangent_part

Loss = Callable[[Tensor], Tensor]
"""Latents [B, ...] to losses [B]."""
MEMORY = 20
"""Remembered steps."""
LONGEST = 0.25
"""The largest angle, in radians, by which a step turns a latent."""
SHRINK = 0.35
"""Factor on the step length after a step that raised the loss."""
FIRST_STEP = 0.03
"""The angle of the first step, in radians, before the curvature is known."""


@dataclass(frozen=True)
class Minimum:
    """The best latents found [B, ...] and their losses [B]."""

    z: Tensor
    loss: Tensor


@dataclass(frozen=True)
class _Pair:
    """One remembered step s and change of gradient y [B, d], 1 / (s . y) [B]; all 0 for an unusable row."""

    s: Tensor
    y: Tensor
    inverse: Tensor


def minimise(
    loss: Loss, start: Tensor, steps: int, on_step: Callable[[int, int], None] = lambda done, total: None,
    parts: int = 1,
) -> Minimum:  # fmt: skip
    """Minimise a loss over latents of fixed norms, each row of the batch independently, in `steps` evaluations.

    start: [B, ...]; a row is one latent or, as [parts, ...], several with a norm each. loss: such latents to
    values [B], where value k depends on row k alone. A step that raises a row's loss is undone and retried
    shorter, so losses never rise. Nocedal and Wright (2006, algorithm 7.4), with gradients in the tangent
    space and a retraction by scaling.
    """
    z = start
    norms = z.reshape(len(z), parts, -1).norm(dim=2, keepdim=True)
    value, gradient = _evaluate(loss, z, parts)
    memory: deque[_Pair] = deque(maxlen=MEMORY)
    scale = torch.ones_like(value)
    radius = norms.square().sum((1, 2)).sqrt()
    for step in range(steps):
        direction = _direction(gradient, memory, FIRST_STEP * radius)
        length = direction.norm(dim=1).clamp(min=1e-12)
        stride = scale * (LONGEST * radius / length).clamp(max=1)
        tried = _retract(z.flatten(1) + stride[:, None] * direction, norms).reshape(z.shape)
        new_value, new_gradient = _evaluate(loss, tried, parts)
        better = new_value < value  # false for NaN too
        memory.append(_pair((tried - z).flatten(1), new_gradient - gradient, better))
        z = torch.where(better.reshape(-1, *([1] * (z.ndim - 1))), tried, z)
        value = torch.where(better, new_value, value)
        gradient = torch.where(better[:, None], new_gradient, gradient)
        scale = torch.where(better, torch.ones_like(scale), (scale * SHRINK).clamp(min=1e-4))
        on_step(step + 1, steps)
    return Minimum(z, value)


def _retract(flat: Tensor, norms: Tensor) -> Tensor:
    """Scale the parts of each row [B, parts * d] back to their norms [B, parts, 1]."""
    split = flat.unflatten(1, (norms.shape[1], -1))
    return (split * (norms / split.norm(dim=2, keepdim=True))).flatten(1)


def _evaluate(loss: Loss, z: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """Losses [B] and their gradients in the tangent space [B, d]."""
    with torch.enable_grad():
        z = z.detach().requires_grad_(True)
        values = loss(z)
        (gradient,) = torch.autograd.grad(values.sum(), z)
    split = z.detach().reshape(len(z) * parts, -1)
    return values.detach(), tangent_part(gradient.reshape(split.shape), split).reshape(len(z), -1)


def _pair(s: Tensor, y: Tensor, taken: Tensor) -> _Pair:
    product = (s * y).sum(1)
    useful = taken & (product > 1e-10)
    keep = useful[:, None].to(s)
    return _Pair(s * keep, torch.nan_to_num(y) * keep, torch.where(useful, 1 / product.clamp(min=1e-10), 0))


def _direction(gradient: Tensor, memory: deque[_Pair], first: Tensor) -> Tensor:
    """The two-loop recursion, row by row; steepest descent of length `first` [B] where no pair is usable."""
    q = gradient.clone()
    weights = []
    for pair in reversed(memory):
        weights.append(pair.inverse * (pair.s * q).sum(1))
        q = q - weights[-1][:, None] * pair.y
    curvature = torch.zeros(len(q), device=q.device)
    for pair in memory:  # the newest useful pair sets the scale
        newest = (pair.s * pair.y).sum(1) / pair.y.square().sum(1).clamp(min=1e-20)
        curvature = torch.where(pair.inverse > 0, newest, curvature)
    steepest = first / gradient.norm(dim=1).clamp(min=1e-12)
    q = q * torch.where(curvature > 0, curvature, steepest)[:, None]
    for pair, weight in zip(memory, reversed(weights), strict=True):
        q = q + (weight - pair.inverse * (pair.y * q).sum(1))[:, None] * pair.s
    uphill = (q * gradient).sum(1) <= 0
    return -torch.where(uphill[:, None], gradient * steepest[:, None], q)
