"""The three ways to edit one image: along a direction, along it until a change is reached, and solved for the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gsd_cli.compute.device import in_full_precision
from gsd_cli.compute.random import latents
from gsd_cli.core.editing.direction import Direction, move_latents, render_edits
from gsd_cli.core.editing.measured_edit import Goal, solve_edits
from gsd_cli.core.editing.reach import find_strengths
from gsd_cli.core.editing.response import Measure
from gsd_cli.core.editing.supervised import Attribute
from gsd_cli.core.latents.files import Anchor
from gsd_cli.core.latents.render import call_changed, render
from gsd_cli.core.latents.walks import equal_steps
from gsd_cli.core.models.generator import Generator

ZERO = 1e-9
"""Strengths below this are 0: those of a range are sums of fractions."""
USUAL_SEEDS = range(32)


@torch.no_grad()
def usual_distance(generator: Generator, features: Measure, batch_size: int) -> float:
    """The median squared distance of two random images of the generator, by the features."""
    parts = latents(USUAL_SEEDS, generator.latent_shape).split(batch_size)
    vectors = torch.cat([features(generator(z.to(generator.device))) for z in parts])
    return torch.pdist(vectors.float()).square().median().item()


@dataclass(frozen=True)
class Edited:
    """Images [S, C, H, W], one per strength, on the CPU, and their latents; None for edits of the bottleneck.

    The images include the tuned weights and the residual of the anchor. even: those between the first and the last are
    at equal perceptual steps, not at their strengths.
    """

    images: Tensor
    z: Tensor | None
    even: bool = False


def show(generator: Generator, anchor: Anchor, z: Tensor) -> Tensor:
    """Images [N, C, H, W] of latents z [N, ...], with the tuned weights and the residual of the anchor; on the CPU."""
    images = render(generator, z, [anchor.delta] * len(z) if anchor.delta else [])
    return images if anchor.residual is None else images + anchor.residual


def edit_along(
    generator: Generator, anchor: Anchor, direction: Direction, strengths: Sequence[float], batch_size: int
) -> Edited:
    """Move an image along a direction by each strength."""
    deltas = [anchor.delta] * len(strengths) if anchor.delta else []
    images = render_edits(generator, anchor.z[None], direction, strengths, deltas, batch_size)
    if anchor.residual is not None:
        images = images + anchor.residual
    if direction.space == "bottleneck":
        return Edited(images, None)
    shifts = direction.scale * torch.tensor(strengths).reshape(-1, 1, 1, 1) * direction.vector
    return Edited(images, move_latents(anchor.z.expand(len(strengths), *anchor.z.shape), shifts))


def edit_moves(generator: Generator, anchor: Anchor, moves: Sequence[tuple[Direction, float]]) -> Edited:
    """Move an image along several directions at once, each by its strength; one image.

    Those of the latent are added before it is put back on its sphere, those of the bottleneck while the generator runs.
    """

    def add(space: str) -> Tensor | None:
        steps = [strength * d.scale * d.vector for d, strength in moves if d.space == space]
        return torch.stack(steps).sum(0)[None] if steps else None

    shift, z = add("latent"), anchor.z[None]
    if shift is not None:
        z = move_latents(z, shift)
    images = render(generator, z, [anchor.delta] if anchor.delta else [], add("bottleneck"))
    return Edited(images if anchor.residual is None else images + anchor.residual, z)


@torch.no_grad()
@in_full_precision
def edit_until_reached(
    generator: Generator, anchor: Anchor, direction: Direction, target: Attribute, deviation: float,
    strengths: Sequence[float], embed: Measure, batch_size: int,
) -> Edited:  # fmt: skip
    """Move an image along a direction until it shows each change, in units of `deviation` of the target.

    The first and the last image show the first and the last strength, and one of strength 0 is the image itself. Those
    between are at equal perceptual steps (by the features `embed`): a class changes within a short part of a path,
    where equal strengths would jump.
    """

    def images_at(tried: Tensor) -> Tensor:
        return edit_along(generator, anchor, direction, tried.tolist(), batch_size).images.to(generator.device)

    before = target.score(images_at(torch.zeros(1))).item()

    def change(tried: Tensor) -> Tensor:
        return (target.score(images_at(tried)).cpu() - before) / deviation

    first, *rest = find_strengths(change, strengths if len(strengths) < 2 else [strengths[0], strengths[-1]])
    if not rest:
        return edit_along(generator, anchor, direction, [first], batch_size)

    def between(start: float, end: float, frames: int) -> list[float]:
        shares = equal_steps(lambda s: images_at(start + (end - start) * s), frames, embed)
        found: list[float] = (start + (end - start) * shares).tolist()
        return found

    origin = next((k for k, s in enumerate(strengths[1:-1], 1) if abs(s) < ZERO), None)
    if origin is None:
        tried = between(first, rest[0], len(strengths))
    else:
        tried = [*between(first, 0, origin + 1), *between(0, rest[0], len(strengths) - origin)[1:]]
    return replace(edit_along(generator, anchor, direction, tried, batch_size), even=True)


def edit_solved(
    generator: Generator, anchor: Anchor, goal: Goal, strengths: Sequence[float],
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Edited:  # fmt: skip
    """Find the latent of each edit by optimisation. A strength of 0 is the image itself."""
    device = generator.device
    residual = None if anchor.residual is None else anchor.residual.to(device)

    def draw(z: Tensor) -> Tensor:
        images = call_changed(generator, z, anchor.delta)
        return images if residual is None else images + residual

    moved = [k for k, s in enumerate(strengths) if s]
    z = anchor.z.expand(len(strengths), *anchor.z.shape).clone()
    if moved:
        start = z[moved].to(device)
        found = solve_edits(draw, start, [strengths[k] for k in moved], goal, on_step=on_step)
        z[moved] = found.cpu()
    return Edited(show(generator, anchor, z), z)
