"""How isometric a generator is, cheaply, for evaluations during training; `geometry` is the full report."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.stats import spearmanr
from torch import Tensor

from gsd_cli.compute.random import generator_for, latents
from gsd_cli.core.models.sphere import rotate
from gsd_cli.metrics.path_length import Images, SquaredDistance

STEP = 0.05
"""Radians of the small steps whose speed is measured."""


@dataclass(frozen=True)
class Isometry:
    """Coefficient of variation of the speed (0 is isometric); Spearman correlation of latent angle
    and picture distance (1 is monotone); mean perceptual distance of random pairs (low: collapse)."""

    speed_cv: float
    spearman: float
    pair_distance: float
    pairs: int


@torch.no_grad()
def isometry(
    images: Images, squared_distance: SquaredDistance, shape: tuple[int, int, int], pairs: int = 256, seed: int = 0,
    batch_size: int = 64,
) -> Isometry:  # fmt: skip
    """Measure on `pairs` random directions; angles for the correlation are uniform in [0.02, pi/2]."""
    seeds = [seed * 1_000_003 + k for k in range(pairs)]
    z, w = latents(seeds, shape, "isometry-z"), latents(seeds, shape, "isometry-w")
    angles = 0.02 + (math.pi / 2 - 0.02) * torch.rand(pairs, generator=generator_for(seed, "isometry-angle"))
    small, wide, across = [], [], []
    for part in torch.arange(pairs).split(batch_size):
        a, b, tau = z[part], w[part], angles[part]
        stack = torch.cat([a, rotate(a, b, torch.full_like(tau, STEP)), rotate(a, b, tau), b])
        here, near, there, other = images(stack).chunk(4)
        small.append(_distance(squared_distance, here, near))
        wide.append(_distance(squared_distance, here, there))
        across.append(_distance(squared_distance, here, other))
    speed = torch.cat(small) / STEP
    correlation = spearmanr(angles.numpy(), torch.cat(wide).numpy()).statistic
    return Isometry((speed.std() / speed.mean()).item(), float(correlation), torch.cat(across).mean().item(), pairs)


def _distance(squared_distance: SquaredDistance, a: Tensor, b: Tensor) -> Tensor:
    return squared_distance(a, b).sqrt().cpu()
