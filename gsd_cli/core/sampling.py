"""Images from seeds, in a stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gsd_cli.core.generator import Generator
from gsd_cli.core.noise import latents


@torch.no_grad()
def sample(
    generator: Generator, seeds: Sequence[int], batch_size: int, truncation: float = 1.0
) -> Iterator[tuple[int, Tensor]]:
    """Yield (seed, image [C, H, W] in about [-1, 1], on the CPU), in the order of `seeds`.

    truncation scales the latents towards 0. When the device runs out of memory the batch is
    halved and the work goes on; at batch 1 the error is raised.
    """
    device = next(generator.parameters()).device
    start = 0
    while start < len(seeds):
        batch = seeds[start : start + batch_size]
        try:
            z = truncation * latents(batch, generator.latent_shape)
            images = generator(z.to(device)).float().cpu()
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
            batch_size //= 2
            continue
        yield from zip(batch, images, strict=True)
        start += len(batch)
