"""Gradients at the generator's images, restricted to changes that the generator can make by moving its latents."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gsd_cli.compute.distributed import World
from gsd_cli.core.distillation.micro_batches import micro_batches
from gsd_cli.core.models.condition import UNCONDITIONAL, Condition

STEP = 0.03
"""How far latents are moved: root mean square over the batch, in units of their standard deviation. It is in radians
for directions of N(0, I)."""


def along_manifold(
    generator: Callable[[Tensor, Condition], Tensor],
    z: Tensor,
    gradient: Tensor,
    condition: Condition = UNCONDITIONAL,
    world: World | None = None,
    chunk: int | None = None,
    scaled: bool = False,
) -> Tensor:
    """J J^T g, up to one positive factor, for the generator's Jacobian J at each latent: [B, C, H, W].

    A step against the result moves G(z) to G(z - d), an image that the generator already makes of a latent nearby:
    images change places, and none is blended or distorted. z, gradient: [B, C, H, W], the images' gradient g;
    condition: of B images. J^T is one backward pass to the latents, J a finite difference, so each latent costs two
    calls and a backward pass. `chunk`: latents at a time. The factor is the same for all processes' latents, and 1 when
    `scaled`: twice the gradient then gives twice the result. The result is zero where no latent would move.
    """
    world = world or World()
    images, directions = [], []
    parts = [(part, condition.rows(part)) for part, _ in micro_batches(chunk, len(z))]
    for part, known in parts:
        own = z[part].detach().requires_grad_(True)
        with torch.enable_grad():
            y = generator(own, known)
            directions.append(torch.autograd.grad(y, own, gradient[part])[0])
        images.append(y.detach())
    back = torch.cat(directions)  # J^T g
    squares, count = world.sum(back.square().sum()), back.numel() * world.size
    # where nothing would move the two calls are equal and the result is zero for any step
    step = torch.where(squares > 0, STEP / (squares / count).sqrt(), 1.0)
    moved = z.detach() - step * back
    with torch.no_grad():
        there = torch.cat([generator(moved[part], known) for part, known in parts])
    difference = torch.cat(images) - there
    return difference / step if scaled else difference
