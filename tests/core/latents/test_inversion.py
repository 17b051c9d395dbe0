from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from gsd_cli.compute.random import latents
from gsd_cli.core.latents.inversion import encoder_features, invert, measure_latents, ode_backward, psnr
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.condition import UNCONDITIONAL, Condition
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.diffusers_folder import load_autoencoder, load_denoiser
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.models.sphere import to_sphere
from tests.support import teachers


def test_a_perfect_latent_is_judged_perfect(toy_teacher: Denoiser) -> None:
    generator = Generator(toy_teacher)
    z = to_sphere(latents([1, 2], generator.latent_shape))
    with torch.no_grad():
        images = generator(z).clamp(-1, 1)
    found = measure_latents(generator, z, images, encoder_features(generator))
    assert min(found.psnr) > 60
    assert max(found.feature_distance) < 1e-8
    assert all(math.isclose(g.norm, 1, rel_tol=1e-5) for g in found.gaussianity)
    assert not any(g.strange for g in found.gaussianity)


def test_psnr_is_that_of_pictures_in_minus_one_to_one() -> None:
    images = torch.zeros(1, 1, 4, 4)
    assert math.isclose(psnr(images + 0.2, images)[0], 10 * math.log10(4 / 0.04), rel_tol=1e-5)
    assert psnr(images, images) == [100.0]


def test_optimisation_improves_on_its_start_and_stays_on_the_sphere(toy_teacher: Denoiser) -> None:
    generator = Generator(toy_teacher)
    features = encoder_features(generator)
    with torch.no_grad():
        images = generator(to_sphere(latents([5, 6], generator.latent_shape))).clamp(-1, 1)
    short = invert(generator, images, features, steps=1)
    long = invert(generator, images, features, steps=80)
    assert all(b > a + 3 for a, b in zip(short.psnr, long.psnr, strict=True))
    assert all(math.isclose(g.norm, 1, rel_tol=1e-5) for g in long.gaussianity)
    assert not any(g.strange for g in long.gaussianity)


def test_each_image_of_a_batch_is_inverted_as_if_alone(toy_teacher: Denoiser) -> None:
    generator = Generator(toy_teacher)
    features = encoder_features(generator)
    with torch.no_grad():
        images = generator(latents([5, 6], generator.latent_shape)).clamp(-1, 1)
    both = invert(generator, images, features, steps=3, starts=1)
    alone = invert(generator, images[1:], features, steps=3, starts=1)
    torch.testing.assert_close(both.z[1:], alone.z, atol=1e-2, rtol=1e-2)


def test_the_prior_trades_fidelity_for_gaussianity(toy_teacher: Denoiser) -> None:
    generator = Generator(toy_teacher)
    features = encoder_features(generator)
    images = torch.ones(1, 1, 16, 16) * torch.linspace(-1, 1, 16)
    free = invert(generator, images, features, steps=40, prior_weight=0)
    bound = invert(generator, images, features, steps=40, prior_weight=20)
    assert free.psnr[0] >= bound.psnr[0] - 0.5
    assert abs(bound.gaussianity[0].correlation) <= abs(free.gaussianity[0].correlation) + 0.01


def test_class_conditional_and_latent_generators_are_inverted_too(tmp_path: Path) -> None:
    teachers.flat(tmp_path / "classes", teachers.unet(teachers.SMALL, num_class_embeds=3))
    teachers.latent_pipeline(tmp_path / "latent", teachers.unet(teachers.LATENT))
    for folder in ("classes", "latent"):
        teacher = load_denoiser(tmp_path / folder)
        generator = Generator(teacher, autoencoder=load_autoencoder(tmp_path / folder))
        generator.condition = Condition(torch.tensor([1])) if generator.denoiser.classes else UNCONDITIONAL
        generator.eval().requires_grad_(False)
        known = teacher.with_condition(generator.condition)
        with torch.no_grad():
            images = generator(latents([0, 1], generator.latent_shape)).clamp(-1, 1)
        found = invert(generator, images, encoder_features(generator), steps=2, starts=1, teacher=known)
        assert found.z.shape == (2, *generator.latent_shape)
        assert all(math.isfinite(p) for p in found.psnr)


class GaussianTeacher(Denoiser):
    """The exact denoiser of data N(0, 4 I): D(x, s) = 4 x / (4 + s^2)."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)
        self.schedule = BetaSchedule.linear()

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        return 4 * x / (4 + sigma.reshape(-1, 1, 1, 1) ** 2)


def test_the_ode_run_backward_scales_gaussian_data_as_the_closed_form_says() -> None:
    x = 2 * latents([0], (1, 8, 8))
    found = ode_backward(GaussianTeacher(), x, 2.5)
    exact = x * math.sqrt((4 + 2.5**2) / (4 + 0.02**2))
    assert ((found - exact).norm() / exact.norm()).item() < 0.08  # twelve Euler steps
