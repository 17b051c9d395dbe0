"""What features of made images say of their quality, each figure with its spread."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from gsd_cli.metrics.frechet_error import extrapolate, jackknife_error
from gsd_cli.metrics.kid import kernel_distance
from gsd_cli.metrics.precision_recall import precision_recall
from gsd_cli.metrics.statistics import Statistics, frechet_distance, gaussian_statistics

FEW = 10_000
"""Below this many samples a Frechet distance is visibly biased, and is said to be."""
FOR_A_SPREAD = 200
"""Samples below which no spread and no extrapolation is attempted."""


@dataclass(frozen=True)
class Real:
    """What made images are compared with: statistics of all real ones, and features [M, F] of some or all.

    name: of the statistics; features_name: of the features.
    """

    statistics: Statistics
    name: str
    features: Tensor | None = None
    features_name: str = ""


def frechet_figures(made: Tensor | Statistics, real: Real, seed: int = 0) -> dict[str, float]:
    """`fd` of features made [N, F] or of their statistics; of features also its jackknife error and its
    extrapolation to infinite N (`fd_error`, `fd_infinity`, `fd_infinity_error`)."""
    if isinstance(made, Statistics):
        return {"fd": frechet_distance(made, real.statistics), "n": made.n}
    extractor = real.statistics.extractor
    figures = {"fd": frechet_distance(gaussian_statistics([made], extractor), real.statistics), "n": len(made)}
    if spread_possible(*made.shape):
        limit = extrapolate(made, real.statistics, smallest=max(len(made) // 4, 2 * made.shape[1]), seed=seed)
        figures |= {"fd_infinity": limit.value, "fd_infinity_error": limit.error}
        figures["fd_error"] = jackknife_error(made, real.statistics)
    return figures


def spread_possible(n: int, size: int) -> bool:
    """Whether n features of `size` numbers are enough for blocks with a covariance of full rank."""
    return n >= max(FOR_A_SPREAD, 4 * size)


def kernel_figures(made: Tensor, real: Tensor, seed: int = 0) -> dict[str, float]:
    """`kid` and its standard deviation over subsets, of features made [N, F] and real [M, F]."""
    found = kernel_distance(made, real, seed=seed)
    return {"kid": found.mean, "kid_std": found.std, "kid_subset_size": found.subset_size}


def precision_recall_figures(made: Tensor, real: Tensor) -> dict[str, float]:
    """`precision`, `recall`, `density`, `coverage` at equal numbers: of the larger set, as many at random as the
    smaller has. Data sets are often sorted by class: their first images are of few classes."""
    n = min(len(made), len(real))
    return {**asdict(precision_recall(_some(made, n), _some(real, n))), "manifold_n": n}


def _some(vectors: Tensor, n: int) -> Tensor:
    """n of the vectors [N, F], always the same."""
    if n == len(vectors):
        return vectors
    chosen = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(0))[:n]
    return vectors[chosen.to(vectors.device)]
