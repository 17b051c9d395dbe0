"""Directions in the generator's bottleneck: principal components of the mid block's activations.

The bottleneck of a U-Net as a semantic space: Kwon et al. (ICLR 2023); its principal components:
Haas et al. (2023). Here for a generator that is called once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gsd_cli.core.generator import Generator
from gsd_cli.core.noise import latents
from gsd_cli.errors import ExitCode, GsdError
from gsd_cli.paths import atomic_file

SAMPLES = 1024
COUNT = 16


@dataclass(frozen=True)
class Directions:
    """Unit vectors [K, c, h, w] in the bottleneck, and the standard deviation [K] of the generator's
    own samples along each."""

    vectors: Tensor
    deviations: Tensor

    def names(self) -> list[str]:
        """pc0, pc1, ... by falling deviation."""
        return [f"pc{k}" for k in range(len(self.vectors))]

    def shift(self, name: str, strength: float) -> Tensor:
        """What to add to the bottleneck [c, h, w]: `strength` standard deviations along a direction.

        Raises GsdError (exit 2) for an unknown name.
        """
        if name not in self.names():
            raise GsdError(
                f"no direction {name!r}", hint=f"pc0 to pc{len(self.vectors) - 1}; see --list", code=ExitCode.USAGE
            )
        k = self.names().index(name)
        return strength * self.deviations[k] * self.vectors[k]


@torch.no_grad()
def principal_directions(generator: Generator, batch_size: int, samples: int = SAMPLES) -> Directions:
    """Principal components of the bottleneck over `samples` of the generator's own images."""
    device = next(generator.parameters()).device
    seen: list[Tensor] = []
    with _watch(generator, seen):
        for seeds in torch.arange(samples).split(batch_size):
            generator(latents(seeds.tolist(), generator.latent_shape, "directions").to(device))
    activations = torch.cat(seen)  # [samples, c, h, w]
    flat = activations.flatten(1) - activations.flatten(1).mean(0)
    _, singular, vectors = torch.linalg.svd(flat, full_matrices=False)
    # a component's sign is arbitrary: make its largest entry positive
    vectors = vectors[:COUNT]
    vectors = vectors * vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()
    return Directions(vectors.reshape(-1, *activations.shape[1:]).contiguous(), singular[:COUNT] / (samples - 1) ** 0.5)


def stored_directions(generator: Generator, path: Path, batch_size: int) -> Directions:
    """Read directions from `path`, or find and store them."""
    try:
        found = load_file(path)
        return Directions(found["vectors"], found["deviations"])
    except (OSError, KeyError, SafetensorError):
        directions = principal_directions(generator, batch_size)
        with atomic_file(path) as temporary:
            save_file({"vectors": directions.vectors, "deviations": directions.deviations}, temporary)
        return directions


@torch.no_grad()
def edited(generator: Generator, z: Tensor, shifts: Tensor) -> Tensor:
    """Images of latents z [B, C, H, W] with the bottleneck moved by shifts [B, c, h, w]."""
    device = next(generator.parameters()).device

    def move(_module: Any, _inputs: Any, output: Tensor) -> Tensor:
        return output + shifts.to(output)

    handle = generator.denoiser.net.mid_block.register_forward_hook(move)
    try:
        return generator(z.to(device)).float().cpu()
    finally:
        handle.remove()


@contextmanager
def _watch(generator: Generator, seen: list[Tensor]) -> Iterator[None]:
    handle = generator.denoiser.net.mid_block.register_forward_hook(
        lambda _module, _inputs, output: seen.append(output.float().cpu())
    )
    try:
        yield
    finally:
        handle.remove()
