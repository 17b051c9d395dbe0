"""How precise a Frechet distance is: its spread over blocks of images, and its value at infinite N."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gsd_cli.compute.random import generator_for
from gsd_cli.metrics.statistics import Statistics, frechet_distance, gaussian_statistics

SIZES = 15
"""How many sizes of subsets the extrapolation measures, as Chong and Forsyth do."""


@dataclass(frozen=True)
class Extrapolated:
    """The distance at infinite N, and the standard error of that intercept."""

    value: float
    error: float


def extrapolate(
    features: Tensor, reference: Statistics, smallest: int = 1000, repeats: int = 5, seed: int = 0
) -> Extrapolated:
    """FD-infinity (Chong and Forsyth, CVPR 2020): FD is linear in 1 / N to first order; N to infinity.

    features [N, F]. Subsets of 15 sizes from `smallest` (or N / 10, if less) to N, evenly spaced in
    1 / N, `repeats` draws each, a line by least squares. The reference is taken as exact.
    """
    n = len(features)
    sizes = (1 / np.linspace(1 / n, 1 / min(smallest, max(2, n // 10)), SIZES)).round().astype(int)
    inverse, distances = [], []
    for i, size in enumerate(sizes):
        for repeat in range(repeats if size < n else 1):
            chosen = torch.randperm(n, generator=generator_for(seed, "extrapolate", i, repeat))[: int(size)]
            part = gaussian_statistics([features[chosen]], reference.extractor)
            inverse.append(1 / int(size))
            distances.append(frechet_distance(part, reference))
    line, covariance = np.polyfit(inverse, distances, 1, cov=True)
    return Extrapolated(float(line[1]), float(np.sqrt(covariance[1, 1])))


def jackknife_error(features: Tensor, reference: Statistics, blocks: int = 10) -> float:
    """The standard error of a Frechet distance, by leaving out one of `blocks` blocks at a time.

    features [N, F], in the order of their seeds; N >= 2 blocks.
    """
    parts = features.chunk(blocks)
    values = [
        frechet_distance(gaussian_statistics(_without(parts, k), reference.extractor), reference)
        for k in range(len(parts))
    ]
    n = len(values)
    return float(np.sqrt((n - 1) / n * np.square(np.array(values) - np.mean(values)).sum()))


def _without(parts: Sequence[Tensor], left_out: int) -> list[Tensor]:
    return [part for k, part in enumerate(parts) if k != left_out]
