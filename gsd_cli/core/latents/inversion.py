"""From a picture to a latent of the one-step generator, by optimisation."""

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
from gsd_cli.core.models.feature_maps import teacher_features
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.models.sphere import to_sphere

Features = Callable[[Tensor], Tensor]

FEATURE_WEIGHT = 0.5
PRIOR_WEIGHT = 20.0
"""Of the prior at `--invert-prior 1`, against the logarithm of the squared pixel error."""
FLOOR = 1e-5
"""Squared pixel error below which nothing is gained: 0.4 grey levels of 8 bits, root mean square."""
RACE = 8
"""Steps after which the best start is chosen."""
ODE_LEVELS, ODE_FIRST_SIGMA = 12, 0.02


@dataclass(frozen=True)
class Inversion:
    """Latents [B, C, H, W] on the sphere of radius sqrt(d), on the CPU, and how good each is.

    psnr: dB, of pictures in [-1, 1] unrounded; feature_distance: squared; gaussianity: of each latent.
    """

    z: Tensor
    psnr: list[float]
    feature_distance: list[float]
    gaussianity: list[Gaussianity]


@in_full_precision
def invert(
    generator: Generator,
    images: Tensor,
    features: Features,
    steps: int = 80,
    starts: int = 2,
    prior_weight: float = 1.0,
    seed: int = 0,
    teacher: Denoiser | None = None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Inversion:
    """Minimise log pixel error + feature distance + Gaussian prior over latents on the sphere.

    images: [B, C, H, W] in [-1, 1], each inverted as if alone. `starts` noised copies of the image, and
    the teacher's own noise for it where a teacher is given, run RACE steps each; the best runs on, so
    that every start costs RACE evaluations on top of `steps`.
    """
    device = generator.device
    images = images.to(device)
    loss = _objective(generator, images, features, prior_weight)
    begun = warm_starts(generator, images, starts, seed, teacher)
    total = RACE * len(begun) + steps

    def report(offset: int) -> Callable[[int, int], None]:
        return lambda done, _: on_step(offset + done, total)

    raced = [minimise(loss, start, RACE, report(RACE * k)) for k, start in enumerate(begun)]
    losses = torch.stack([found.loss for found in raced])  # [starts, B]
    chosen = torch.stack([found.z for found in raced])[losses.argmin(0), torch.arange(len(images))]
    best = minimise(loss, chosen, steps, report(RACE * len(begun)))
    return judge(generator, best.z, images, features)


def _objective(
    generator: Generator, images: Tensor, features: Features, prior_weight: float
) -> Callable[[Tensor], Tensor]:
    with torch.no_grad():
        wanted = features(images)

    def loss(z: Tensor) -> Tensor:
        made = generator(z)
        # the logarithm keeps the error's pull from fading as it falls: the terms stay in balance
        pixel = ((made - images).square().flatten(1).mean(1) + FLOOR).log()
        distance = (features(made) - wanted).square().sum(1)
        return pixel + FEATURE_WEIGHT * distance + PRIOR_WEIGHT * prior_weight * prior(z)

    return loss


@torch.no_grad()
def warm_starts(generator: Generator, images: Tensor, starts: int, seed: int, teacher: Denoiser | None) -> list[Tensor]:
    """Latents [B, C, H, W] to begin at: the image noised at sigma_init by several draws, which the
    generator would denoise; and what the teacher's ODE makes of it."""
    code = generator.autoencoder.encode(images)
    begun = []
    for k in range(starts):
        noise = latents([seed], generator.latent_shape, f"inversion-{k}").to(code.device)
        begun.append(to_sphere(code / generator.sigma_init + noise))
    if teacher is not None:
        begun.append(to_sphere(ode_backward(teacher, code, generator.sigma_init) / generator.sigma_init))
    return begun


def ode_backward(teacher: Denoiser, code: Tensor, sigma: float) -> Tensor:
    """The probability-flow ODE dx / dsigma = (x - D(x, sigma)) / sigma (Karras et al. 2022, eq. 1) run from
    data up to sigma, by Euler steps: x [B, C, H, W], the teacher's own noisy version of the data."""
    levels = torch.logspace(math.log10(ODE_FIRST_SIGMA), math.log10(sigma), ODE_LEVELS).tolist()
    x = code
    for low, high in pairwise(levels):
        x = x + (x - teacher(x, per_image(low, x))) / low * (high - low)
    return x


@torch.no_grad()
@in_full_precision
def judge(generator: Generator, z: Tensor, images: Tensor, features: Features) -> Inversion:
    """Measure how well latents stand for images."""
    device = generator.device
    z, images = z.to(device), images.to(device)
    made = generator(z).clamp(-1, 1)
    distances = (features(made) - features(images)).square().sum(1).tolist()
    return Inversion(z.cpu(), psnr(made, images), distances, gaussianity(z))


def psnr(made: Tensor, images: Tensor) -> list[float]:
    """Peak signal to noise ratio in dB of pictures [B, C, H, W] in [-1, 1]; at most 100."""
    error = (made - images).square().flatten(1).mean(1)
    return (10 * (4 / error.clamp(min=4e-10)).log10()).tolist()


def encoder_features(generator: Generator) -> Features:
    """The generator's own encoder as a feature map, for models whose teacher is not at hand."""
    return lambda images: teacher_features(generator.denoiser, generator.autoencoder.encode(images))
