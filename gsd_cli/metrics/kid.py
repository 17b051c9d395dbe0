"""KID: the squared maximum mean discrepancy under a cubic kernel (Binkowski et al., ICLR 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.compute.random import generator_for

MOST = 10_000
"""The largest number of images per side that the standard error is computed from."""
BLOCKS = 10


@dataclass(frozen=True)
class KernelDistance:
    """Mean over random subsets, unbiased: it may fall below 0.

    std: standard deviation over the subsets; None where a side holds less than two subsets' images, so that the
    subsets share most of them. It is the spread at the size of a subset, not the error of the mean: see `kernel_error`.
    """

    mean: float
    std: float | None
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
    if len(generated) == len(real) == size:  # every subset is the whole
        subsets = 1
    values = []
    for k in range(subsets):
        random = generator_for(seed, "kid", k)
        a, b = (x[torch.randperm(len(x), generator=random)[:size]].double() for x in (generated, real))
        values.append(squared_discrepancy(a, b))
    stacked = torch.stack(values)
    apart = subsets > 1 and min(len(generated), len(real)) >= 2 * size
    return KernelDistance(stacked.mean().item(), stacked.std().item() if apart else None, subsets, size)


def kernel_error(generated: Tensor, real: Tensor, blocks: int = BLOCKS, seed: int = 0) -> float:
    """The standard error of KID between features [N, F] and [M, F], by a jackknife over random blocks of either side.

    Both sides are samples, so both contribute. Of more than MOST images per side a random part is taken: the error is
    then that of the part, and too large for the whole.
    """
    cut = []
    for k, vectors in enumerate((generated, real)):
        order = torch.randperm(len(vectors), generator=generator_for(seed, "kid-blocks", k))[:MOST]
        cut.append(vectors[order.to(vectors.device)].double().chunk(blocks))
    within = [torch.stack([torch.stack([_pair_sum(a, b) for b in side]) for a in side]) for side in cut]
    across = torch.stack([torch.stack([_pair_sum(a, b) for b in cut[1]]) for a in cut[0]])
    counts = [torch.tensor([len(part) for part in side], dtype=torch.float64) for side in cut]

    def value(keep: tuple[Tensor, Tensor]) -> Tensor:
        n, m = (count @ kept for count, kept in zip(counts, keep, strict=True))
        own, theirs = (kept @ sums @ kept for sums, kept in zip(within, keep, strict=True))
        return own / (n * (n - 1)) + theirs / (m * (m - 1)) - 2 * (keep[0] @ across @ keep[1]) / (n * m)

    whole, variance = tuple(torch.ones_like(count) for count in counts), 0.0
    for side in range(2):
        rest = []
        for k in range(len(counts[side])):
            keep = [one.clone() for one in whole]
            keep[side][k] = 0
            rest.append(value((keep[0], keep[1])))
        n = len(rest)
        variance += (n - 1) / n * (torch.stack(rest) - torch.stack(rest).mean()).square().sum().item()
    return variance**0.5


def _pair_sum(a: Tensor, b: Tensor) -> Tensor:
    """The sum of the kernel over all pairs of vectors of a and of b; of different vectors if a is b."""
    kernel = _cubic(a, b)
    return kernel.sum() - kernel.diagonal().sum() if a is b else kernel.sum()


def squared_discrepancy(a: Tensor, b: Tensor) -> Tensor:
    """The unbiased estimate of MMD^2 between m vectors each, a, b [m, F], kernel (x . y / F + 1)^3."""
    m = len(a)
    within = sum(k.sum() - k.diagonal().sum() for k in (_cubic(a, a), _cubic(b, b)))
    return within / (m * (m - 1)) - 2 * _cubic(a, b).mean()


def _cubic(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3
