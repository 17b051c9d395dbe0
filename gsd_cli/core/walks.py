"""Paths between latents: lerp, slerp, and slerp in equal perceptual steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gsd_cli.core.noise import slerp

Images = Callable[[Tensor], Tensor]
Distance = Callable[[Tensor, Tensor], Tensor]
DENSE = 8
"""Points per frame when the perceptual length of a path is measured."""


@dataclass(frozen=True)
class Walk:
    """Latents [frames, C, H, W], their images, and the perceptual length of each step [frames - 1]."""

    z: Tensor
    images: Tensor
    steps: Tensor

    @property
    def unevenness(self) -> float:
        """Largest over mean step: 1 is even."""
        return (self.steps.max() / self.steps.mean().clamp(min=1e-12)).item()

    @property
    def length(self) -> float:
        """The perceptual length of the walk."""
        return self.steps.sum().item()


@torch.no_grad()
def walk(a: Tensor, b: Tensor, frames: int, path: str, images: Images, distance: Distance) -> Walk:
    """Go from latent a to latent b [C, H, W] in `frames` points, ends included.

    path: `lerp`, `slerp`, or `uniform`: slerp reparameterised so that the steps' perceptual
    lengths are equal, as far as a dense sampling of the path tells.
    """
    s = torch.linspace(0, 1, frames)
    if path == "uniform" and frames > 2:
        s = _equal_steps(a, b, frames, images, distance)
    z = _along(a, b, s, path)
    made = images(z)
    return Walk(z, made, distance(made[1:], made[:-1]).cpu())


def _along(a: Tensor, b: Tensor, s: Tensor, path: str) -> Tensor:
    starts, ends = a.expand(len(s), *a.shape), b.expand(len(s), *b.shape)
    if path == "lerp":
        return starts.lerp(ends, s.reshape(-1, 1, 1, 1))
    return slerp(starts, ends, s)


def _equal_steps(a: Tensor, b: Tensor, frames: int, images: Images, distance: Distance) -> Tensor:
    """Parameters in [0, 1] at which the cumulative perceptual length is evenly spaced."""
    dense = torch.linspace(0, 1, frames * DENSE)
    made = images(_along(a, b, dense, "slerp"))
    length = torch.cat([torch.zeros(1), distance(made[1:], made[:-1]).cpu().cumsum(0)]).double()
    if length[-1] <= 0:  # the same picture all along
        return torch.linspace(0, 1, frames)
    wanted = torch.linspace(0, 1, frames, dtype=torch.float64) * length[-1]
    high = torch.searchsorted(length, wanted).clamp(1, len(dense) - 1)
    share = (wanted - length[high - 1]) / (length[high] - length[high - 1]).clamp(min=1e-12)
    s = dense[high - 1] + share.clamp(0, 1).float() * (dense[high] - dense[high - 1])
    s[0], s[-1] = 0.0, 1.0
    return s
