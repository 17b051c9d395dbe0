"""The figures of image quality that compare features of generated and of real images, with their spreads."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from gsd_cli.metrics.frechet_error import FOR_A_SPREAD, measure_precision, reason_for_no_spread
from gsd_cli.metrics.kid import kernel_distance, kernel_error
from gsd_cli.metrics.precision_recall import precision_recall
from gsd_cli.metrics.statistics import Statistics, frechet_distance, gaussian_statistics

FEW = 10_000
"""With fewer samples a Frechet distance is visibly biased, and the protocol says so."""


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
    """`fd` of features [N, F] or of their statistics. Of features also its standard error (`fd_error`) and its
    extrapolation to infinite N (`fd_infinity`, `fd_infinity_error`), where N is large enough."""
    reference = real.statistics
    if isinstance(generated, Statistics):
        return {"fd": frechet_distance(generated, reference), "n": generated.n}
    n = len(generated)
    figures = {"fd": frechet_distance(gaussian_statistics([generated], reference.extractor), reference), "n": n}
    if reason_for_no_spread(n) is None:
        found = measure_precision(generated, reference, seed)
        figures["fd_error"] = found.error
        if found.infinity is not None:
            figures |= {"fd_infinity": found.infinity.value, "fd_infinity_error": found.infinity.error}
    return figures


def kernel_figures(generated: Tensor, real: Tensor, seed: int = 0) -> dict[str, float]:
    """`kid` of generated features [N, F] and real ones [M, F], its standard error (`kid_error`), and its standard
    deviation over subsets (`kid_std`) where these differ; both where there are enough images."""
    found = kernel_distance(generated, real, seed=seed)
    figures = {"kid": found.mean, "kid_subset_size": found.subset_size}
    if found.std is not None:
        figures["kid_std"] = found.std
    if min(len(generated), len(real)) >= FOR_A_SPREAD:
        figures["kid_error"] = kernel_error(generated, real, seed=seed)
    return figures


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
