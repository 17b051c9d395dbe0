"""Perceptual path length (Karras et al. 2020), for latents on a sphere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.stats import t as student
from torch import Tensor

from gsd_cli.compute.random import latents, seed_generator
from gsd_cli.core.models.sphere import slerp

Images = Callable[[Tensor], Tensor]
SquaredDistance = Callable[[Tensor, Tensor], Tensor]
TRIM = 0.01
NOISY = 0.01
"""A noise floor above this share of the path length matters."""


@dataclass(frozen=True)
class PathLength:
    """One PPL figure: the mean with 1 % trimmed at each end (none of fewer than 100 pairs) and the untrimmed one,
    with their 95 % intervals by Student's t. The trimmed interval is Tukey and McLaughlin's (1963), from the winsorised
    variance."""

    mean: float
    low: float
    high: float
    untrimmed: float
    untrimmed_low: float
    untrimmed_high: float
    epsilon: float
    pairs: int


def path_length_protocol(pairs: int, epsilon: float) -> str:
    """How a path length is measured, apart from the model and the distance."""
    return (
        f"{pairs} pairs, slerp of flattened latents, e = {epsilon:g}, float32 images neither rounded nor "
        f"clamped, {_trimmed(pairs)} of the pairs trimmed at each end, 95% interval"
    )


@torch.no_grad()
def path_length(
    images: Images,
    squared_distance: SquaredDistance,
    shape: tuple[int, int, int],
    pairs: int,
    epsilon: float = 1e-4,
    seed: int = 0,
    batch_size: int = 64,
    on_batch: Callable[[int, int], None] | None = None,
) -> PathLength:
    """E[d(G(slerp(z0, z1, t)), G(slerp(z0, z1, t + e))) / e^2], d a squared perceptual distance.

    images: latents [B, *shape] to float32 images, neither rounded nor clamped. z0, z1 and t of
    pair k depend on (seed, k) alone, so two models can be measured on the same paths.
    Raises ValueError for epsilon <= 0.
    """
    if epsilon <= 0:
        raise ValueError("epsilon must be positive")
    values = []
    for start in range(0, pairs, batch_size):
        ks = range(start, min(pairs, start + batch_size))
        now, later = (_points(ks, shape, seed, e) for e in (0.0, epsilon))
        # both ends in one batch: kernels that differ by batch size would add noise at this scale
        first, second = images(torch.cat([now, later])).chunk(2)
        values.append((squared_distance(first, second) / epsilon**2).cpu().double())
        if on_batch is not None:
            on_batch(ks[-1] + 1, pairs)
    return _summarise(torch.cat(values), epsilon)


@torch.no_grad()
def noise_floor(
    images: Images, squared_distance: SquaredDistance, shape: tuple[int, int, int], pairs: int = 64,
    epsilon: float = 1e-4,
) -> float:  # fmt: skip
    """What arithmetic alone adds to the mean squared distance at e = epsilon, before division by e^2.

    From three points a, b, c of each path, e apart. Where the path is smooth |a - 2b + c|^2 is of order e^4, and what
    is left of it is rounding, three times that of a pair. By the parallelogram law it is 2 d(a, b) + 2 d(b, c) -
    d(a, c) for squared distances d. Equal latents would show nothing: every layer rounds them in the same way.
    """
    points = [_points(range(pairs), shape, 0, k * epsilon) for k in range(3)]
    a, b, c = images(torch.cat(points)).chunk(3)
    near, following, far = (squared_distance(*ends).cpu().double() for ends in ((a, b), (b, c), (a, c)))
    return max(0.0, (2 * near + 2 * following - far).mean().item() / 3)


def _points(ks: range, shape: tuple[int, int, int], seed: int, epsilon: float) -> Tensor:
    seeds = [seed * 1_000_003 + k for k in ks]
    z0, z1 = latents(seeds, shape, "ppl-0"), latents(seeds, shape, "ppl-1")
    t = torch.stack([torch.rand((), generator=seed_generator(s, "ppl-t"), dtype=torch.float64) for s in seeds])
    # float64 until the point is found: 1e-4 of a turn is close to float32's resolution
    return slerp(z0.double(), z1.double(), t + epsilon).float()


def _trimmed(pairs: int) -> int:
    """How many values are trimmed at each end."""
    return int(pairs * TRIM)


def _summarise(values: Tensor, epsilon: float) -> PathLength:
    ordered = values.sort().values
    n, cut = len(values), _trimmed(len(values))
    trimmed = ordered[cut : n - cut].mean().item()
    winsorised = ordered.clamp(ordered[cut].item(), ordered[n - 1 - cut].item())
    half = _half_interval(winsorised, n - 2 * cut) / (1 - 2 * cut / n)
    whole = values.mean().item()
    wide = _half_interval(values, n)
    return PathLength(trimmed, trimmed - half, trimmed + half, whole, whole - wide, whole + wide, epsilon, n)


def _half_interval(values: Tensor, kept: int) -> float:
    """Half the 95 % interval of a mean; kept: how many of the values were not trimmed."""
    if kept < 2:
        return float("nan")
    return float(student.ppf(0.975, kept - 1)) * values.std().item() / len(values) ** 0.5
