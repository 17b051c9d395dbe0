"""Paths between latents: lerp, slerp, slerp in equal perceptual steps, and geodesics of least energy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gsd_cli.compute.device import in_full_precision
from gsd_cli.core.latents.lbfgs import minimise
from gsd_cli.core.models.sphere import slerp

Render = Callable[[Tensor, Tensor], Tensor]
"""Latents [N, C, H, W] at fractions s [N] of the way to their images [N, ...]."""
Embed = Callable[[Tensor], Tensor]
"""Images to vectors [N, E] whose Euclidean distance is the perceptual one."""

DENSE = 8
"""Points per frame when the perceptual length of a path is measured."""
CORRECTIONS = 3
"""How often the steps between frames are measured and evened out again."""


@dataclass(frozen=True)
class Walk:
    """Latents [frames, C, H, W] at fractions s [frames] of the way, their images, and the perceptual
    length of each step [frames - 1]."""

    z: Tensor
    s: Tensor
    images: Tensor
    steps: Tensor

    @property
    def unevenness(self) -> float:
        """Largest over mean step: 1 is even."""
        return unevenness(self.steps)

    @property
    def length(self) -> float:
        """The perceptual length of the walk."""
        return self.steps.sum().item()


def unevenness(steps: Tensor) -> float:
    """Largest over mean of steps [N]; 1 when nothing moves."""
    mean = steps.mean().item()
    return steps.max().item() / mean if mean > 1e-9 else 1.0


@in_full_precision
def walk(
    a: Tensor, b: Tensor, frames: int, path: str, images: Render, embed: Embed, geodesic_steps: int = 30,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Walk:  # fmt: skip
    """Go from latent a to latent b [C, H, W] in `frames` points, ends included.

    path: `lerp`; `slerp`; `uniform`: slerp reparameterised so that the steps' perceptual lengths are
    equal; `geodesic`: then the inner points are moved, each on its sphere, to lower the energy.
    `images` must carry gradients for `geodesic`.
    """
    s = torch.linspace(0, 1, frames)
    if path in ("uniform", "geodesic") and frames > 2:
        s = equal_steps(lambda s: images(interpolate(a, b, s, "slerp"), s), frames, embed)
    z = interpolate(a, b, s, path)
    if path == "geodesic" and frames > 2:
        z = _minimise_energy(z, s, images, embed, geodesic_steps, on_step)
    with torch.no_grad():
        made = images(z, s)
        return Walk(z, s, made, step_lengths(made, embed))


def interpolate(a: Tensor, b: Tensor, s: Tensor, path: str) -> Tensor:
    """Latents at fractions s [N] of the way from a to b [C, H, W]; a straight line for `lerp`, else a great circle."""
    starts, ends = a.expand(len(s), *a.shape), b.expand(len(s), *b.shape)
    if path == "lerp":
        return starts.lerp(ends, s.reshape(-1, 1, 1, 1))
    return slerp(starts, ends, s)


def step_lengths(images: Tensor, embed: Embed) -> Tensor:
    """The perceptual length of each step between images [N, ...]: [N - 1], on the CPU."""
    vectors = embed(images)
    return (vectors[1:] - vectors[:-1]).norm(dim=1).cpu()


def cross_fade(first: Tensor, last: Tensor, frames: int) -> Tensor:
    """Pixels of two images mixed linearly, [frames, C, H, W]: the naive reference."""
    share = torch.linspace(0, 1, frames).reshape(-1, 1, 1, 1)
    return (1 - share) * first + share * last


@torch.no_grad()
def equal_steps(images_at: Callable[[Tensor], Tensor], frames: int, embed: Embed) -> Tensor:
    """Fractions [frames] of a path, from 0 to 1, between which its images change in equal perceptual steps.

    images_at: fractions [N] to the images there [N, ...].
    """
    dense = torch.linspace(0, 1, frames * DENSE)
    s = _space_evenly(dense, step_lengths(images_at(dense), embed), frames)
    best, least = s, float("inf")
    for _ in range(CORRECTIONS):
        # chords cut corners: frames that are even along the curve are less even between each other
        steps = step_lengths(images_at(s), embed)
        if unevenness(steps) < least:
            best, least = s, unevenness(steps)
        s = _space_evenly(s, steps, frames)
    return best


def _space_evenly(s: Tensor, steps: Tensor, frames: int) -> Tensor:
    """Fractions [frames] that cut a path, known by its steps between the points s, into parts of equal length."""
    length = torch.cat([torch.zeros(1), steps.cumsum(0)]).double()
    if length[-1] <= 1e-9:  # every image is the same
        return torch.linspace(0, 1, frames)
    wanted = torch.linspace(0, 1, frames, dtype=torch.float64) * length[-1]
    high = torch.searchsorted(length, wanted).clamp(1, len(s) - 1)
    share = (wanted - length[high - 1]) / (length[high] - length[high - 1]).clamp(min=1e-12)
    found = s[high - 1] + share.clamp(0, 1).float() * (s[high] - s[high - 1])
    found[0], found[-1] = 0.0, 1.0
    return found


def energy(images: Tensor, embed: Embed) -> Tensor:
    """The discrete energy of a path of N images, (N - 1) times the sum of squared steps: at least the
    squared length, with equality for even steps (Shao et al. 2018)."""
    vectors = embed(images)
    return (len(images) - 1) * (vectors[1:] - vectors[:-1]).square().sum()


def _minimise_energy(
    z: Tensor, s: Tensor, images: Render, embed: Embed, steps: int, on_step: Callable[[int, int], None]
) -> Tensor:
    """A path of lower energy found from z [N, C, H, W]: the ends are fixed, the other points keep their norms."""

    def loss(inner: Tensor) -> Tensor:
        path = torch.cat([z[:1], inner[0], z[-1:]])
        # latents are on the CPU, the energy where the images are made
        return energy(images(path, s), embed)[None].to(inner.device)

    found = minimise(loss, z[None, 1:-1], steps, on_step, parts=len(z) - 2)
    return torch.cat([z[:1], found.z[0], z[-1:]])
