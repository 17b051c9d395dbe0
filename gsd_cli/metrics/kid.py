"""KID: the squared maximum mean discrepancy under a cubic kernel (Binkowski et al., ICLR 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.compute.random import generator_for


@dataclass(frozen=True)
class KernelDistance:
    """Mean and standard deviation over random subsets. Unbiased: it may fall below 0."""

    mean: float
    std: float
    subsets: int
    subset_size: int


def kernel_distance(
    generated: Tensor, real: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0
) -> KernelDistance:
    """KID between generated features [N, F] and real ones [M, F], in float64.

    Subsets are drawn without replacement, and are no larger than the smaller set. Raises GsdError
    (exit 3) for fewer than two vectors or for features of different sizes.
    """
    if generated.ndim != 2 or real.ndim != 2 or generated.shape[1] != real.shape[1]:
        raise GsdError(f"features of shapes {tuple(generated.shape)} and {tuple(real.shape)} cannot be compared")
    size = min(subset_size, len(generated), len(real))
    if size < 2:
        raise GsdError("a kernel distance needs at least 2 images on each side")
    values = []
    for k in range(subsets):
        random = generator_for(seed, "kid", k)
        a, b = (x[torch.randperm(len(x), generator=random)[:size]].double() for x in (generated, real))
        values.append(squared_discrepancy(a, b))
    stacked = torch.stack(values)
    return KernelDistance(stacked.mean().item(), stacked.std(correction=0).item(), subsets, size)


def squared_discrepancy(a: Tensor, b: Tensor) -> Tensor:
    """The unbiased estimate of MMD^2 between m vectors each, a, b [m, F], kernel (x . y / F + 1)^3."""
    m = len(a)
    within = sum(k.sum() - k.diagonal().sum() for k in (_cubic(a, a), _cubic(b, b)))
    return within / (m * (m - 1)) - 2 * _cubic(a, b).mean()


def _cubic(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3
