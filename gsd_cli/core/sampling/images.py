"""Images from seeds: by the generator as a stream, or by a sampler of a teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gsd_cli.compute.distributed import World
from gsd_cli.compute.random import latents
from gsd_cli.core.models.condition import Condition, seed_conditions
from gsd_cli.core.models.renderer import Renderer
from gsd_cli.core.models.teacher import Teacher
from gsd_cli.core.sampling.sampler_kind import OnStep
from gsd_cli.core.sampling.samplers import Sampler


@torch.no_grad()
def sample(
    generator: Renderer,
    seeds: Sequence[int],
    batch_size: int,
    truncation: float = 1.0,
    condition: Condition | None = None,
    world: World | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yield (seed, image [C, H, W] in about [-1, 1], on the CPU), in the order of `seeds`.

    truncation scales the latents towards 0. A conditional model is given `condition`, one row for all
    images, by default the condition that each seed draws. The processes of `world` share each batch, and
    each process yields all images. When the device runs out of memory the batch is halved; at batch 1
    the error is raised. On a CPU every network call has the same size, whatever the batch, so that an
    image is the same to the last bit.
    """
    device = generator.device
    world = world or World()
    steady = _steady_size(generator) if device.type == "cpu" else None
    size = steady or batch_size
    for start in range(0, len(seeds), batch_size * world.size):
        batch = seeds[start : start + batch_size * world.size]
        share = -(-len(batch) // world.size)
        # gathered tensors need one shape: with uneven shares the last processes repeat the last image
        own = [batch[min(i, len(batch) - 1)] for i in range(share * world.rank, share * (world.rank + 1))]
        made: list[Tensor] = []
        while (done := sum(map(len, made))) < len(own):
            part = own[done : done + size]
            called = [*part, *part[-1:] * (steady - len(part))] if steady else part
            z = truncation * latents(called, generator.latent_shape)
            try:
                images = generator(z.to(device), conditions_for(generator, called, condition)).float()
                made.append(images[: len(part)])
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                size //= 2
        images = world.gather(torch.cat(made))[: len(batch)].cpu()
        yield from zip(batch, images, strict=True)


def _steady_size(generator: Renderer) -> int:
    """Images per call on a CPU, fixed since libraries sum in an order that depends on it; small images gain by more."""
    _, height, width = generator.latent_shape
    return 16 if height * width <= 32 * 32 else 4 if height * width <= 64 * 64 else 1


def conditions_for(generator: Renderer, seeds: Sequence[int], one: Condition | None = None) -> Condition:
    """The condition of the seeds' images, on the generator's device: `one`, of one row, or what each seed draws."""
    found = seed_conditions(generator.conditions, seeds) if one is None else one.expand(len(seeds))
    return found.to(generator.device)


@torch.no_grad()
def sample_teacher(
    teacher: Teacher, sampler: Sampler, noise: Tensor, seeds: Sequence[int], on_step: OnStep | None = None
) -> Tensor:
    """Images of a teacher by a sampler, conditions drawn by seed: noise [B, *shape] to [B, C, H, W]."""
    drawn = seed_conditions(teacher.denoiser.conditions, seeds)
    model = teacher.denoiser.with_condition(drawn.to(noise.device))
    return teacher.autoencoder.decode(sampler(model, noise, seeds, on_step))
