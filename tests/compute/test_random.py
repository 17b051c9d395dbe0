"""Random numbers of images: a function of the seed, and of every bit of it."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch

from gsd_cli.compute.random import SHORT, generator_for, latents, seed_generator, seed_numbers

SHAPE = (1, 4, 4)


def test_seeds_that_once_gave_one_image_give_two() -> None:
    """torch reads 32 of the bits that these two seeds were mixed into, and they are the same."""
    assert torch.equal(*(torch.randn(SHAPE, generator=generator_for(seed, "latent")) for seed in (51934, 88977)))
    a, b = latents([51934, 88977], SHAPE)
    assert (a - b).abs().max() > 0.1


def test_seeds_below_the_limit_keep_their_images_and_all_differ() -> None:
    for seed in (0, 1, 1999, SHORT - 1):
        assert torch.equal(latents([seed], SHAPE)[0], torch.randn(SHAPE, generator=generator_for(seed, "latent")))
    word = zlib.crc32(b"latent")
    drawn = [
        np.random.SeedSequence([seed, word]).generate_state(1, np.uint64)[0] >> np.uint64(1) for seed in range(SHORT)
    ]
    assert len({int(value) % 2**32 for value in drawn}) == SHORT


@pytest.mark.parametrize("bit", [16, 20, 31, 32, 40, 62])
def test_every_bit_of_a_seed_counts(bit: int) -> None:
    base = latents([SHORT + 7, (SHORT + 7) ^ (1 << bit)], SHAPE)
    assert (base[0] - base[1]).abs().max() > 0.1


def test_a_large_seed_fills_the_whole_state_of_the_twister() -> None:
    """numpy's generator of the same kind, in the same state, gives the same words; torch takes two for a number."""
    key = np.random.SeedSequence([SHORT, zlib.crc32(b"stream")]).generate_state(624, np.uint32)
    twister = np.random.MT19937()
    twister.state = twister.state | {"state": {"key": key, "pos": 624}}
    words = twister.random_raw(2000)[1::2]
    found = torch.randint(2**32, (1000,), generator=seed_generator(SHORT, "stream"))
    assert found.tolist() == words.tolist()


def test_large_seeds_draw_from_the_normal_distribution_and_repeat() -> None:
    many = latents(range(2**40, 2**40 + 300), (8, 8)).flatten()
    assert many.mean().item() == pytest.approx(0, abs=0.03)
    assert many.std().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(latents([2**62], SHAPE), latents([2**62], SHAPE))
    assert not torch.equal(latents([2**62], SHAPE), latents([2**62], SHAPE, "other"))
    labels = seed_numbers(range(2**40, 2**40 + 300), 10)
    assert labels.bincount(minlength=10).min() > 10
