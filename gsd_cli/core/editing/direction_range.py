"""The strengths between which an edit along a direction keeps most of an image."""

from __future__ import annotations

import torch
from torch import Tensor

from gsd_cli.compute.device import in_full_precision
from gsd_cli.compute.random import latents
from gsd_cli.core.editing.direction import Direction, render_edits
from gsd_cli.core.editing.edit_image import FAR, usual_distance
from gsd_cli.core.editing.response import Measure
from gsd_cli.core.models.generator import Generator

SEEDS = range(16)
STEP, LARGEST = 0.5, 8.0
"""Strengths are looked at in these steps, up to the largest on each side."""


@torch.no_grad()
@in_full_precision
def measure_range(
    generator: Generator, direction: Direction, features: Measure, batch_size: int = 64
) -> tuple[float, float]:
    """The lowest and the highest strength up to which the median image changes by less than FAR of the usual distance.

    Distances are squared distances by the features, over 16 seeds; the usual one is that of two random images. Beyond
    the range, an edit shows another image rather than the same one changed. Both ends are multiples of STEP, at least
    one STEP and at most LARGEST from 0.
    """
    z = latents(SEEDS, generator.latent_shape, "range")
    limit = FAR * usual_distance(generator, features, batch_size)

    def embed(strength: float) -> Tensor:
        images = render_edits(generator, z, direction, [strength] * len(z), (), batch_size)
        return features(images.to(generator.device)).float()

    origin = embed(0.0)

    def end(sign: float) -> float:
        reached = STEP
        while reached < LARGEST:
            moved = (embed(sign * (reached + STEP)) - origin).square().sum(1).median().item()
            if not moved <= limit:
                break
            reached += STEP
        return sign * reached

    return end(-1.0), end(1.0)
