"""Gradients at the generator's images, kept to what its latents can do."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gsd_cli.compute.distributed import World

NEAR = 0.03
"""How far latents are moved, root mean square over the batch, in units of their standard deviation; radians,
for directions of N(0, I)."""


def along_manifold(
    generator: Callable[[Tensor, Tensor | None], Tensor],
    z: Tensor,
    gradient: Tensor,
    labels: Tensor | None = None,
    world: World | None = None,
    chunk: int | None = None,
    scaled: bool = False,
) -> Tensor:
    """J J^T g, up to one positive factor, for the generator's Jacobian J at each latent: [B, ...].

    A step against the result moves G(z) to G(z - d), a picture that the generator makes already of a latent near
    by: pictures change places and none is blended or distorted. z, gradient: [B, ...], the images' gradient g;
    labels: int64 [B] or None. Back to the latents by autograd, forward from there by a finite difference, so every
    latent costs two calls and a backward pass to the input. `chunk`: latents at a time. The factor is one for
    all processes' latents, and 1 when `scaled`: twice the gradient then gives twice the result. Where nothing would
    move the result is zero.
    """
    world = world or World()
    size = max(1, chunk or len(z))
    images, directions = [], []
    parts = [(slice(i, i + size), None if labels is None else labels[i : i + size]) for i in range(0, len(z), size)]
    for part, known in parts:
        own = z[part].detach().requires_grad_(True)
        with torch.enable_grad():
            y = generator(own, known)
            directions.append(torch.autograd.grad(y, own, gradient[part])[0])
        images.append(y.detach())
    back = torch.cat(directions)
    squares, count = world.sum(back.square().sum()), back.numel() * world.size
    # no step where nothing would move: the two calls are equal then, and the result is zero
    step = torch.where(squares > 0, NEAR / (squares / count).sqrt(), 1.0)
    moved = z.detach() - step * back
    with torch.no_grad():
        there = torch.cat([generator(moved[part], known) for part, known in parts])
    found = torch.cat(images) - there
    return found / step if scaled else found
