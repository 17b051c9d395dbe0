"""Images from seeds: of the one-step generator, in a stream; of a teacher, by a sampler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gsd_cli.core.generator import Generator
from gsd_cli.core.noise import latents, seed_labels
from gsd_cli.core.samplers import Sampler, Step
from gsd_cli.core.teachers import Teacher


@torch.no_grad()
def sample(
    generator: Generator, seeds: Sequence[int], batch_size: int, truncation: float = 1.0, label: int | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Yield (seed, image [C, H, W] in about [-1, 1], on the CPU), in the order of `seeds`.

    truncation scales the latents towards 0. A class-conditional model makes class `label`, or the
    class that each seed draws. When the device runs out of memory the batch is
    halved and the work goes on; at batch 1 the error is raised.
    """
    device = next(generator.parameters()).device
    start = 0
    while start < len(seeds):
        batch = seeds[start : start + batch_size]
        try:
            z = truncation * latents(batch, generator.latent_shape)
            images = generator(z.to(device), labels_for(generator, batch, label)).float().cpu()
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
            batch_size //= 2
            continue
        yield from zip(batch, images, strict=True)
        start += len(batch)


def labels_for(generator: Generator, seeds: Sequence[int], label: int | None = None) -> Tensor | None:
    """The classes of the seeds' images, int64 [len(seeds)] on the generator's device; None without classes."""
    classes = generator.denoiser.classes
    drawn = seed_labels(seeds, classes) if label is None else torch.full((len(seeds),), label)
    return drawn.to(next(generator.parameters()).device) if classes and drawn is not None else None


@torch.no_grad()
def sample_teacher(
    teacher: Teacher, sampler: Sampler, noise: Tensor, seeds: Sequence[int], on_step: Step | None = None
) -> Tensor:
    """Pictures of a teacher by its sampler, classes drawn by seed: noise [B, *shape] to [B, C, H, W]."""
    labels = seed_labels(seeds, teacher.denoiser.classes)
    model = teacher.denoiser.given(labels if labels is None else labels.to(noise.device))
    return teacher.autoencoder.decode(sampler(model, noise, seeds, on_step))
