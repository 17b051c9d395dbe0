"""Find the latent from which a generator makes a given image, by optimisation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from gsd_cli.compute.device import in_full_precision
from gsd_cli.compute.random import latents
from gsd_cli.core.latents.gaussianity import Gaussianity, gaussianity, prior
from gsd_cli.core.latents.lbfgs import minimise
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.feature_maps import FeatureMap, teacher_features
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.models.sphere import to_sphere

FEATURE_WEIGHT = 0.5
PRIOR_WEIGHT = 20.0
"""Weight of the prior at `--invert-prior 1`, relative to the logarithm of the squared pixel error."""
FLOOR = 1e-5
"""Squared pixel error below which nothing is gained: a root mean square of 0.4 grey levels of 8 bits."""
RACE = 8
"""Steps after which the best start is chosen."""
ODE_LEVELS, ODE_FIRST_SIGMA = 12, 0.02
"""Noise levels of `ode_backward`, and the first one."""


@dataclass(frozen=True)
class Inversion:
    """Latents [B, C, H, W] on the sphere of radius sqrt(d), on the CPU, with the quality of each.

    psnr: dB, of unrounded images in [-1, 1]. feature_distance: squared. gaussianity: per latent.
    """

    z: Tensor
    psnr: list[float]
    feature_distance: list[float]
    gaussianity: list[Gaussianity]


@in_full_precision
def invert(
    generator: Generator,
    images: Tensor,
    features: FeatureMap,
    steps: int = 80,
    starts: int = 2,
    prior_weight: float = 1.0,
    seed: int = 0,
    teacher: Denoiser | None = None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Inversion:
    """Minimise log pixel error + feature distance + Gaussian prior over latents on the sphere.

    images: [B, C, H, W] in [-1, 1], each inverted independently. The starts are `starts` noised copies of
    the image and, with a teacher, the noise its ODE assigns to the image. Each runs RACE steps, and the
    best one runs `steps` more: a start costs RACE evaluations.
    """
    device = generator.device
    images = images.to(device)
    loss = _objective(generator, images, features, prior_weight)
    started = draw_starts(generator, images, starts, seed, teacher)
    total = RACE * len(started) + steps

    def report(offset: int) -> Callable[[int, int], None]:
        return lambda done, _: on_step(offset + done, total)

    raced = [minimise(loss, start, RACE, report(RACE * k)) for k, start in enumerate(started)]
    losses = torch.stack([found.loss for found in raced])  # [starts, B]
    chosen = torch.stack([found.z for found in raced])[losses.argmin(0), torch.arange(len(images))]
    best = minimise(loss, chosen, steps, report(RACE * len(started)))
    return measure_latents(generator, best.z, images, features)


def _objective(
    generator: Generator, images: Tensor, features: FeatureMap, prior_weight: float
) -> Callable[[Tensor], Tensor]:
    with torch.no_grad():
        target = features(images)

    def loss(z: Tensor) -> Tensor:
        made = generator(z)
        # the logarithm keeps the gradient of a small error from fading: the terms stay in balance
        pixel = ((made - images).square().flatten(1).mean(1) + FLOOR).log()
        distance = (features(made) - target).square().sum(1)
        return pixel + FEATURE_WEIGHT * distance + PRIOR_WEIGHT * prior_weight * prior(z)

    return loss


@torch.no_grad()
def draw_starts(generator: Generator, images: Tensor, starts: int, seed: int, teacher: Denoiser | None) -> list[Tensor]:
    """Starting latents [B, C, H, W]: the image noised at sigma_init by several draws, which the generator
    would denoise, and with a teacher the end of its ODE from the image."""
    code = generator.autoencoder.encode(images)
    started = []
    for k in range(starts):
        noise = latents([seed], generator.latent_shape, f"inversion-{k}").to(code.device)
        started.append(to_sphere(code / generator.sigma_init + noise))
    if teacher is not None:
        started.append(to_sphere(ode_backward(teacher, code, generator.sigma_init) / generator.sigma_init))
    return started


def ode_backward(teacher: Denoiser, code: Tensor, sigma: float) -> Tensor:
    """The probability-flow ODE dx / dsigma = (x - D(x, sigma)) / sigma (Karras et al. 2022, eq. 1) run from
    code [B, C, H, W] up to sigma by Euler steps: the x [B, C, H, W] that the teacher would denoise to it."""
    levels = torch.logspace(math.log10(ODE_FIRST_SIGMA), math.log10(sigma), ODE_LEVELS).tolist()
    x = code
    for low, high in pairwise(levels):
        x = x + (x - teacher(x, per_image(low, x))) / low * (high - low)
    return x


@torch.no_grad()
@in_full_precision
def measure_latents(generator: Generator, z: Tensor, images: Tensor, features: FeatureMap) -> Inversion:
    """Measure how well latents z [B, C, H, W] reproduce images [B, C, H, W] in [-1, 1]."""
    device = generator.device
    z, images = z.to(device), images.to(device)
    made = generator(z).clamp(-1, 1)
    distances = (features(made) - features(images)).square().sum(1).tolist()
    return Inversion(z.cpu(), psnr(made, images), distances, gaussianity(z))


def psnr(made: Tensor, images: Tensor) -> list[float]:
    """Peak signal-to-noise ratio in dB of images [B, C, H, W] in [-1, 1]; at most 100."""
    error = (made - images).square().flatten(1).mean(1)
    return (10 * (4 / error.clamp(min=4e-10)).log10()).tolist()


def encoder_features(generator: Generator) -> FeatureMap:
    """The generator's encoder as a feature map, which needs no teacher."""
    return lambda images: teacher_features(generator.denoiser, generator.autoencoder.encode(images))
