"""From a picture to a latent of the one-step generator, by optimisation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gsd_cli.core.denoiser import per_image
from gsd_cli.core.generator import Generator
from gsd_cli.core.noise import latents
from gsd_cli.core.phi import normalise_channels

Features = Callable[[Tensor], Tensor]
FEATURE_WEIGHT = 0.1
WHITENESS_WEIGHT = 1.0


@dataclass(frozen=True)
class Inversion:
    """Latents [B, C, H, W] on the sphere of radius sqrt(d), and how good they are, one value an image.

    psnr: dB, on pictures in [-1, 1]; feature_distance: squared; norm: |z| / sqrt(d); correlation:
    lag-1 autocorrelation of z (0 for Gaussian noise).
    """

    z: Tensor
    psnr: list[float]
    feature_distance: list[float]
    norm: list[float]
    correlation: list[float]


def invert(
    generator: Generator,
    images: Tensor,
    features: Features,
    steps: int = 200,
    lr: float = 0.05,
    seed: int = 0,
    on_step: Callable[[int, int], None] | None = None,
) -> Inversion:
    """Minimise pixel error + feature distance + autocorrelation of z, kept on the sphere.

    images: [B, C, H, W] in [-1, 1]. Starts from the image itself, noised at sigma_init (the
    generator then denoises it), and keeps each image's best latent on the way.
    """
    device = next(generator.parameters()).device
    images = images.to(device)
    with torch.no_grad():
        wanted = features(images)
    noise = latents([seed] * len(images), generator.latent_shape, "inversion").to(device)
    with torch.no_grad():
        z = to_sphere(generator.autoencoder.encode(images) / generator.sigma_init + noise)
    z.requires_grad_(True)
    optimizer = torch.optim.Adam([z], lr=lr)
    best, best_loss = z.detach().clone(), torch.full((len(images),), math.inf, device=device)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
        made = generator(z)
        pixel = (made - images).square().flatten(1).mean(1)
        loss = pixel + FEATURE_WEIGHT * (features(made) - wanted).square().sum(1)
        loss = loss + WHITENESS_WEIGHT * _correlations(z).square().sum(1)
        better = loss.detach() < best_loss
        best[better], best_loss[better] = z.detach()[better], loss.detach()[better]
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        with torch.no_grad():
            z.copy_(to_sphere(z))
        if on_step is not None:
            on_step(step + 1, steps)
    return judge(generator, best, images, features)


@torch.no_grad()
def judge(generator: Generator, z: Tensor, images: Tensor, features: Features) -> Inversion:
    """Measure how well latents stand for images."""
    made = generator(z).clamp(-1, 1)
    error = (made - images).square().flatten(1).mean(1).clamp(min=1e-10)
    norm = z.flatten(1).norm(dim=1) / math.sqrt(z[0].numel())
    return Inversion(
        z.cpu(),
        (10 * (4 / error).log10()).tolist(),
        (features(made) - features(images)).square().sum(1).tolist(),
        norm.tolist(),
        _correlations(z).mean(1).tolist(),
    )


def to_sphere(z: Tensor) -> Tensor:
    """Scale each latent to norm sqrt(d), where N(0, I) lives."""
    d = z[0].numel()
    return z * (math.sqrt(d) / z.flatten(1).norm(dim=1)).reshape(-1, 1, 1, 1)


def _correlations(z: Tensor) -> Tensor:
    """Correlation of horizontal and of vertical neighbours: [B, 2]."""
    power = z.square().flatten(1).mean(1)
    across = (z[..., 1:] * z[..., :-1]).flatten(1).mean(1) / power
    down = (z[..., 1:, :] * z[..., :-1, :]).flatten(1).mean(1) / power
    return torch.stack([across, down], 1)


def encoder_features(generator: Generator, sigma: float = 0.2) -> Features:
    """The generator's own encoder as a feature map, for models whose teacher is not at hand."""

    def features(images: Tensor) -> Tensor:
        code = generator.autoencoder.encode(images)
        maps = generator.denoiser.encode(code, per_image(sigma, code))
        return normalise_channels([maps[len(maps) // 2 - 1], maps[-1]])

    return features
