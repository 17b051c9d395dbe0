"""Random numbers as functions of a seed: generators, latents, labels."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def generator_for(seed: int, *stream: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A random generator that depends on (seed, stream) alone, so there is no state to save."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in stream]
    mixed = np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(mixed >> np.uint64(1)))


def latents(seeds: Sequence[int], shape: Sequence[int], stream: str = "latent") -> Tensor:
    """z ~ N(0, I) for each seed, float32 [len(seeds), *shape]; image k depends on seed k alone."""
    return torch.stack([torch.randn(*shape, generator=generator_for(s, stream)) for s in seeds])


def normal_rows(rows: Sequence[int], shape: Sequence[int], seed: int, *stream: int | str) -> Tensor:
    """N(0, I) for each row number, float32 [len(rows), *shape]; a row depends on (seed, stream, number) alone."""
    return torch.stack([torch.randn(*shape, generator=generator_for(seed, *stream, row)) for row in rows])


def seed_labels(seeds: Sequence[int], classes: int | None) -> Tensor | None:
    """The class of each seed's image, uniform over the classes: int64 [len(seeds)]; None without classes."""
    if not classes:
        return None
    return torch.stack([torch.randint(classes, (), generator=generator_for(s, "class")) for s in seeds])
