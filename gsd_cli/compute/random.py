"""Random numbers as functions of a seed: generators, latents, choices."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

SHORT = 2**16
"""Seeds below this one draw from `generator_for`."""
_STATE, _WORDS = 24, 624
"""Where the words of MT19937 begin in torch's state, as 64-bit numbers, and how many there are."""


def generator_for(seed: int, *stream: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A random generator that depends on (seed, stream) alone, so there is no state to save.

    On a CPU it has 2^32 states. For the images of single seeds see `seed_generator`.
    """
    mixed = _sequence(seed, stream).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(mixed >> np.uint64(1)))


def seed_generator(seed: int, *stream: int | str) -> torch.Generator:
    """The random generator of one image, on the CPU: it depends on (seed, stream) alone, and on every bit of seed.

    torch reads only 32 bits of what `generator_for` seeds it with: of 100,000 seeds, two would give one image. Seeds
    below SHORT give different numbers all the same, so they keep the images that they have always had; from there on
    the whole state of the generator (Matsumoto and Nishimura's MT19937, 624 words) comes from the seed.
    """
    if seed < SHORT:
        return generator_for(seed, *stream)
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    words = _sequence(seed, stream).generate_state(_WORDS, np.uint32).astype(np.uint64)
    state[_STATE : _STATE + 8 * _WORDS] = torch.from_numpy(words.view(np.uint8))
    return generator.set_state(state)


def _sequence(seed: int, stream: Sequence[int | str]) -> np.random.SeedSequence:
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in stream]
    return np.random.SeedSequence([seed, *words])


def latents(seeds: Sequence[int], shape: Sequence[int], stream: str = "latent") -> Tensor:
    """z ~ N(0, I) for each seed, float32 [len(seeds), *shape]; image k depends on seed k alone."""
    return torch.stack([torch.randn(*shape, generator=seed_generator(s, stream)) for s in seeds])


def normal_rows(rows: Sequence[int], shape: Sequence[int], seed: int, *stream: int | str) -> Tensor:
    """N(0, I) for each row number, float32 [len(rows), *shape]; a row depends on (seed, stream, number) alone."""
    return torch.stack([torch.randn(*shape, generator=generator_for(seed, *stream, row)) for row in rows])


def seed_numbers(seeds: Sequence[int], below: int) -> Tensor:
    """The number of each seed's condition (a class, say), uniform in {0..below-1}: int64 [len(seeds)]."""
    return torch.stack([torch.randint(below, (), generator=seed_generator(s, "class")) for s in seeds])
