"""How precise a Frechet distance is: its standard error, and its value at infinite N.

A distance of N images is too large on average, by about c / N (Chong and Forsyth, CVPR 2020). The line in 1 / N through
the distances of parts of the images leads to infinite N. The images are cut into 2, 3 and 4 parts of one size, and the
distances of one size are averaged: all images take part in each average alike, so what is left of the line's scatter
is small. Parts are no smaller than a quarter of the images and twice the number of features, below which the
bias is no longer linear in 1 / N.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gsd_cli.compute.random import generator_for
from gsd_cli.metrics.statistics import Statistics, distance_to, gaussian_statistics

FOR_A_SPREAD = 200
"""With fewer images no spread and no extrapolation is computed."""
BLOCKS, FEW_BLOCKS = 40, 10
"""Blocks of the jackknife, of which each is left out once. With 10 the error itself is uncertain by a quarter, with 40
by a tenth. Of more than MANY_FEATURES, whose distances take seconds, there are FEW_BLOCKS."""
MANY_FEATURES = 512
PARTS = (2, 3, 4)


@dataclass(frozen=True)
class Extrapolated:
    """The distance at infinite N, and its standard error by a jackknife over blocks of images."""

    value: float
    error: float


@dataclass(frozen=True)
class Precision:
    """error: the standard error of a distance; infinity: its value at infinite N, None where that is not available."""

    error: float
    infinity: Extrapolated | None


def reason_for_no_spread(n: int) -> str | None:
    """Why n images give no standard error of a distance; None where they do."""
    return None if n >= FOR_A_SPREAD else f"fewer than {FOR_A_SPREAD} images"


def reason_for_no_infinity(n: int, size: int) -> str | None:
    """Why there is no distance at infinite N of n images with `size` features; None where there is one."""
    if reason_for_no_spread(n) or _plan(n, size):
        return reason_for_no_spread(n)
    return f"{size} features need at least {math.ceil(8 * size / 3)} images for a line in 1 / N"


def count_blocks(size: int) -> int:
    """The blocks of the jackknife for features of `size` numbers."""
    return BLOCKS if size <= MANY_FEATURES else FEW_BLOCKS


def measure_precision(features: Tensor, reference: Statistics, seed: int = 0, *, to_infinity: bool = True) -> Precision:
    """The precision of the distance of features [N, F] to a reference, which is taken as exact.

    N is at least FOR_A_SPREAD. The parts and the blocks are random ones. to_infinity: also extrapolate, which takes ten
    times as long.
    """
    plan, blocks = _plan(*features.shape) if to_infinity else [], count_blocks(features.shape[1])
    order = torch.randperm(len(features), generator=generator_for(seed, "frechet"))
    shuffled = features[order.to(features.device)].cpu().double()
    distance = distance_to(reference)

    def measure(places: Tensor) -> float:
        return distance(gaussian_statistics([shuffled[places]], reference.extractor))

    def estimate(places: Tensor) -> tuple[float, float]:
        own = measure(places)
        return own, _intercept(places, own, plan, measure) if plan else math.nan

    cut = torch.arange(len(shuffled)).chunk(blocks)
    rest = [estimate(torch.cat([*cut[:k], *cut[k + 1 :]])) for k in range(len(cut))]
    error, error_at_infinity = (_jackknife(values) for values in zip(*rest, strict=True))
    if not plan:
        return Precision(error, None)
    return Precision(error, Extrapolated(estimate(torch.cat(cut))[1], error_at_infinity))


def _plan(n: int, size: int) -> list[tuple[int, bool]]:
    """Numbers of parts p, and whether the parts themselves are measured (n / p images each) or what is left without
    one of them (n - n / p)."""
    smallest, plan = max(n // 4, 2 * size), []
    for parts in PARTS:
        if n // parts >= smallest:
            plan.append((parts, True))
        elif n - math.ceil(n / parts) >= smallest:
            plan.append((parts, False))
    return plan


def _intercept(
    places: Tensor, own: float, plan: Sequence[tuple[int, bool]], measure: Callable[[Tensor], float]
) -> float:
    """Where the line through the distances of all images and of parts of them meets 1 / N = 0.

    An image's place decides its part. So the images that remain without a block keep their parts, and estimates without
    one block or another differ by the blocks alone.
    """
    inverse, distances = [1 / len(places)], [own]
    for count, alone in plan:
        of_part = [places % count == k for k in range(count)]
        parts = [places[mine if alone else ~mine] for mine in of_part]
        inverse.append(float(np.mean([1 / len(part) for part in parts])))
        distances.append(float(np.mean([measure(part) for part in parts])))
    return float(np.polyfit(inverse, distances, 1)[1])


def _jackknife(values: Sequence[float]) -> float:
    n = len(values)
    return float(np.sqrt((n - 1) / n * np.square(np.array(values) - np.mean(values)).sum()))
