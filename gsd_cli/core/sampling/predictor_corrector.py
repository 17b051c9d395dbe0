"""Predictor-corrector sampling of the reverse SDE (Song et al., ICLR 2021, algorithm 2)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from gsd_cli.compute.random import seed_generator
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.sampling.ode import karras_sigmas, starting_point
from gsd_cli.core.sampling.sampler_kind import OnStep, SamplerKind

SNR = 0.16
"""The corrector's signal-to-noise ratio r, as published for CIFAR-10."""


@torch.no_grad()
def predictor_corrector(
    model: Denoiser, noise: Tensor, seeds: Sequence[int], steps: int, on_step: OnStep | None = None
) -> Tensor:
    """One Langevin corrector and one reverse-diffusion predictor per level: 2 steps - 1 network calls.

    In variance-exploding scale, score(x, sigma) = (D - x) / sigma^2. The corrector's step size is
    computed per image, not per batch, so that an image depends on its seed alone. The last
    prediction adds no noise.
    """
    sigmas = karras_sigmas(model.schedule, steps)
    x = starting_point(noise, sigmas[0])
    streams = [seed_generator(seed, "predictor-corrector") for seed in seeds]

    def fresh() -> Tensor:
        return torch.stack([torch.randn(noise.shape[1:], generator=g) for g in streams]).to(x)

    for i, (sigma, following) in enumerate(pairwise(sigmas)):
        if i > 0:
            x = _correct(x, _score(model, x, sigma), fresh())
        variance = sigma**2 - following**2
        x = x + variance * _score(model, x, sigma)
        if following > 0:
            x = x + variance**0.5 * fresh()
        if on_step is not None:
            on_step(i + 1, steps)
    return x


def _score(model: Denoiser, x: Tensor, sigma: float) -> Tensor:
    return (model(x, per_image(sigma, x)) - x) / sigma**2


def _correct(x: Tensor, score: Tensor, noise: Tensor) -> Tensor:
    ratio = SNR * noise.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1).clamp(min=1e-12)
    size = 2 * ratio.square().reshape(-1, 1, 1, 1)
    return x + size * score + (2 * size).sqrt() * noise


PREDICTOR_CORRECTOR = SamplerKind(
    "pc",
    steps=500,
    sample=lambda model, noise, r: predictor_corrector(model, noise, r.seeds, r.steps, r.on_step),
    calls=lambda steps: 2 * steps - 1,
    deterministic=False,
)
