"""The figures of image quality that compare features of generated and of real images, with their spreads."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from gsd_cli.metrics.frechet_error import extrapolate, jackknife_error
from gsd_cli.metrics.kid import kernel_distance
from gsd_cli.metrics.precision_recall import precision_recall
from gsd_cli.metrics.statistics import Statistics, frechet_distance, gaussian_statistics

FEW = 10_000
"""With fewer samples a Frechet distance is visibly biased, and the protocol says so."""
FOR_A_SPREAD = 200
"""With fewer samples no spread and no extrapolation is computed."""


@dataclass(frozen=True)
class Real:
    """What generated images are compared with: statistics of all real ones, and features [M, F] of some or all.

    name: of the statistics; features_name: of the features.
    """

    statistics: Statistics
    name: str
    features: Tensor | None = None
    features_name: str = ""


def frechet_figures(generated: Tensor | Statistics, real: Real, seed: int = 0) -> dict[str, float]:
    """`fd` of features [N, F] or of their statistics; of features also its jackknife error and its
    extrapolation to infinite N (`fd_error`, `fd_infinity`, `fd_infinity_error`)."""
    reference = real.statistics
    if isinstance(generated, Statistics):
        return {"fd": frechet_distance(generated, reference), "n": generated.n}
    n, size = generated.shape
    figures = {"fd": frechet_distance(gaussian_statistics([generated], reference.extractor), reference), "n": n}
    if spread_possible(n, size):
        limit = extrapolate(generated, reference, smallest=max(n // 4, 2 * size), seed=seed)
        figures |= {"fd_infinity": limit.value, "fd_infinity_error": limit.error}
        figures["fd_error"] = jackknife_error(generated, reference)
    return figures


def spread_possible(n: int, size: int) -> bool:
    """Whether n features of `size` numbers are enough for blocks with a covariance of full rank."""
    return n >= max(FOR_A_SPREAD, 4 * size)


def kernel_figures(generated: Tensor, real: Tensor, seed: int = 0) -> dict[str, float]:
    """`kid` and its standard deviation over subsets, of generated features [N, F] and real ones [M, F]."""
    found = kernel_distance(generated, real, seed=seed)
    return {"kid": found.mean, "kid_std": found.std, "kid_subset_size": found.subset_size}


def precision_recall_figures(generated: Tensor, real: Tensor) -> dict[str, float]:
    """`precision`, `recall`, `density`, `coverage` at equal numbers.

    Of the larger set a random part is taken, as large as the smaller set. Data sets are often sorted by class, so their
    first images would show few classes.
    """
    n = min(len(generated), len(real))
    return {**asdict(precision_recall(_some(generated, n), _some(real, n))), "manifold_n": n}


def _some(vectors: Tensor, n: int) -> Tensor:
    """n of the vectors [N, F], the same at each call."""
    if n == len(vectors):
        return vectors
    chosen = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(0))[:n]
    return vectors[chosen.to(vectors.device)]
