"""The measured range of a direction: until an image has changed as much as two random images differ."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from gsd_cli.compute.device import in_full_precision
from gsd_cli.compute.random import latents
from gsd_cli.core.editing.direction import Direction, render_edits
from gsd_cli.core.editing.response import Measure
from gsd_cli.core.models.generator import Generator

SEEDS = range(8)
FARTHEST = 4
"""The largest strength that is tried: a standard deviation is its unit, and few images lie beyond three."""
ROUNDED = 0.5
SMALLEST = 1.0
"""The end of a range is at least this far from 0."""


@torch.no_grad()
@in_full_precision
def measure_range(
    generator: Generator, direction: Direction, features: Measure, usual: float, batch_size: int
) -> tuple[float, float]:
    """The lowest and highest strength of a direction, in steps of ROUNDED, from the images of SEEDS.

    features: images to vectors. usual: the median squared distance of two random images. Each end is where the mean
    squared distance to the unmoved image reaches `usual`, at most FARTHEST.
    """
    z = latents(SEEDS, generator.latent_shape)
    strengths = [float(s) for s in (*range(-FARTHEST, 0), *range(1, FARTHEST + 1))]
    every = [s for s in strengths for _ in SEEDS]
    moved = render_edits(generator, z.repeat(len(strengths), 1, 1, 1), direction, every, (), batch_size)
    start = features(render_edits(generator, z, direction, [0.0] * len(z), (), batch_size).to(generator.device))
    found = torch.cat([features(part.to(generator.device)) for part in moved.split(batch_size)])
    far = (found.unflatten(0, (len(strengths), len(z))) - start).square().sum(2).mean(1).cpu()  # [strengths]
    return -find_end(far[:FARTHEST].flip(0), usual), find_end(far[FARTHEST:], usual)


def find_end(distances: Tensor, usual: float) -> float:
    """The strength at which distances at strengths 1, 2, ... [N] reach `usual`, rounded down to a step of ROUNDED."""
    known = [0.0, *distances.tolist()]
    for k, (before, after) in enumerate(pairwise(known)):
        if after >= usual:
            exact = k + (usual - before) / (after - before)
            return max(SMALLEST, math.floor(exact / ROUNDED) * ROUNDED)
    return float(len(distances))
