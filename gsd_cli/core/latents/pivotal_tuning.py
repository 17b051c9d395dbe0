"""Pivotal tuning: fit a few of the generator's weights to one image, as a change stored apart from the model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gsd_cli.compute.device import in_full_precision
from gsd_cli.compute.random import normal_rows
from gsd_cli.core.latents.render import call_changed
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.models.sphere import to_sphere

LR = 2e-3
LOCALITY, NEIGHBOURHOOD = 1.0, 0.3
"""Weight of preserving the images of nearby latents, and the step to these latents in units of noise."""


@in_full_precision
def tune(
    generator: Generator, z: Tensor, images: Tensor, steps: int, seed: int = 0,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Tensor]]:  # fmt: skip
    """For each latent z [B, C, H, W] of images [B, C, H, W]: changes of weights by name, on the CPU.

    Pivotal tuning (Roich et al. 2022) with its locality term: pixel error at z, plus the
    change of the image of a nearby latent. The generator is not modified.
    """
    device = generator.device
    found = []
    for k in range(len(z)):
        pivot, image = z[k : k + 1].to(device), images[k : k + 1].to(device)
        report = _offset(on_step, k * steps, len(z) * steps)
        found.append(_tune_one(generator, pivot, image, steps, seed, report))
    return found


def _offset(on_step: Callable[[int, int], None], offset: int, total: int) -> Callable[[int], None]:
    return lambda done: on_step(offset + done, total)


def _tune_one(
    generator: Generator, z: Tensor, image: Tensor, steps: int, seed: int, on_step: Callable[[int], None]
) -> dict[str, Tensor]:
    names = tuned_parameters(generator)
    parameters = dict(generator.named_parameters())
    delta = {name: torch.zeros_like(parameters[name]).requires_grad_(True) for name in names}
    optimizer = torch.optim.Adam(delta.values(), lr=LR)
    for step in range(steps):
        noise = normal_rows([step], generator.latent_shape, seed, "tuning").to(z)
        near = to_sphere(z + NEIGHBOURHOOD * noise)
        with torch.no_grad():
            wanted = generator(near)
        loss = (call_changed(generator, z, delta) - image).square().mean()
        loss = loss + LOCALITY * (call_changed(generator, near, delta) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        on_step(step + 1)
    return {name: change.detach().cpu() for name, change in delta.items()}


def tuned_parameters(generator: Generator) -> list[str]:
    """The names of the parameters that tuning changes: the layers nearest to the pixels, furthest from the
    meaning of latents. Where another network makes the later calls, its layers."""
    name = "denoiser" if generator.later is None else "later"
    prefixes = tuple(f"{name}.{layer}." for layer in generator.network(generator.calls).output_layers())
    return [name for name, _ in generator.named_parameters() if name.startswith(prefixes)]
