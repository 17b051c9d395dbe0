"""Walks between latents, as rows of a table: how even, how long."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.support.results import Row
from gsd_cli.core.latents.inversion import encoder_features
from gsd_cli.core.latents.walks import cross_fade, step_lengths, unevenness, walk
from gsd_cli.core.models.generator import Generator, generate

WAYS = ("uniform", "slerp", "lerp", "geodesic", "cross-fade")
COLUMNS = ("path", "pairs", "largest over mean step", "worst", "perceptual length")
FRAMES = 16
GEODESICS = 4
"""Pairs joined by geodesics, which cost a hundred times the others."""


def walk_figures(generator: Generator, z: Tensor, way: str) -> Row:
    """Latents z [2 n, C, H, W] joined two by two: largest over mean step (mean and worst over pairs) and the
    perceptual length, of a path through the latent space or of cross-fading the images of both ends."""
    features = encoder_features(generator)
    uneven, length = [], []
    pairs = list(zip(z[:-1:2], z[1::2], strict=False))
    for a, b in pairs[:GEODESICS] if way == "geodesic" else pairs:
        if way == "cross-fade":
            ends = generate(generator, torch.stack([a, b]), 2)
            steps = step_lengths(cross_fade(ends[0], ends[1], FRAMES), features)
        else:
            steps = walk(a, b, FRAMES, way, lambda z, _: generator(z), features).steps
        uneven.append(unevenness(steps))
        length.append(steps.sum().item())
    n = len(uneven)
    return {"pairs": n, "largest_over_mean": sum(uneven) / n, "worst": max(uneven), "length": sum(length) / n}
