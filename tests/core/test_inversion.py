from __future__ import annotations

import math

import torch

from gsd_cli.core.denoiser import Denoiser
from gsd_cli.core.generator import Generator
from gsd_cli.core.inversion import encoder_features, invert, judge, to_sphere
from gsd_cli.core.noise import latents


def test_a_perfect_latent_is_judged_perfect(toy_teacher: Denoiser) -> None:
    generator = Generator(toy_teacher)
    z = to_sphere(latents([1, 2], generator.latent_shape))
    with torch.no_grad():
        images = generator(z).clamp(-1, 1)
    found = judge(generator, z, images, encoder_features(generator))
    assert min(found.psnr) > 60
    assert max(found.feature_distance) < 1e-8
    assert all(math.isclose(norm, 1, rel_tol=1e-5) for norm in found.norm)
    assert max(abs(c) for c in found.correlation) < 0.2


def test_psnr_is_that_of_pictures_in_minus_one_to_one(toy_teacher: Denoiser) -> None:
    generator = Generator(toy_teacher)
    z = latents([3], generator.latent_shape)
    with torch.no_grad():
        images = generator(z).clamp(-1, 1)
    shifted = images + 0.2  # mean squared error 0.04 against a range of 2
    found = judge(generator, z, shifted, encoder_features(generator))
    assert math.isclose(found.psnr[0], 10 * math.log10(4 / 0.04), rel_tol=1e-3)


def test_optimisation_improves_on_its_start_and_stays_on_the_sphere(toy_teacher: Denoiser) -> None:
    generator = Generator(toy_teacher)
    features = encoder_features(generator)
    with torch.no_grad():
        images = generator(to_sphere(latents([5, 6], generator.latent_shape))).clamp(-1, 1)
    short = invert(generator, images, features, steps=1)
    long = invert(generator, images, features, steps=80)
    assert all(b > a + 3 for a, b in zip(short.psnr, long.psnr, strict=True))
    assert all(math.isclose(norm, 1, rel_tol=1e-5) for norm in long.norm)


def test_each_image_of_a_batch_is_inverted_as_if_alone(toy_teacher: Denoiser) -> None:
    generator = Generator(toy_teacher)
    features = encoder_features(generator)
    with torch.no_grad():
        images = generator(latents([5, 6], generator.latent_shape)).clamp(-1, 1)
    both = invert(generator, images, features, steps=5)
    alone = invert(generator, images[1:], features, steps=5)
    torch.testing.assert_close(both.z[1:], alone.z, atol=1e-4, rtol=1e-3)
