"""How different a generator's images are from one another."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gsd_cli.compute.random import latents

PAIRS = 200


def diversity(
    images: Callable[[Tensor], Tensor], squared_distance: Callable[[Tensor, Tensor], Tensor],
    shape: tuple[int, ...], batch_size: int, on_batch: Callable[[int], None] = lambda done: None,
) -> dict[str, float]:  # fmt: skip
    """Mean perceptual distance of PAIRS random pairs of images, and its standard error."""
    z = latents(range(2 * PAIRS), shape, "diversity")
    distances: list[Tensor] = []
    for a, b in zip(z[::2].split(batch_size), z[1::2].split(batch_size), strict=True):
        distances.append(squared_distance(images(a), images(b)).sqrt().cpu())
        on_batch(2 * sum(map(len, distances)))
    found = torch.cat(distances)
    return {"diversity": found.mean().item(), "diversity_error": (found.std() / len(found) ** 0.5).item()}
