"""Predictor-corrector sampling of the reverse SDE (Song et al., ICLR 2021, algorithm 2).

In variance-exploding scale, score(x, sigma) = (D - x) / sigma^2. The corrector's step size is computed per image, not
per batch, so that an image depends on its seed alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from gsd_cli.compute.random import seed_generator
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.score_sde_schedule import VeSchedule
from gsd_cli.core.sampling.ode import karras_sigmas, starting_point
from gsd_cli.core.sampling.sampler_kind import OnStep, SamplerKind

SNR = 0.16
"""The corrector's signal-to-noise ratio r, as published for CIFAR-10."""


@torch.no_grad()
def predictor_corrector(
    model: Denoiser, noise: Tensor, seeds: Sequence[int], steps: int, on_step: OnStep | None = None
) -> Tensor:
    """One Langevin corrector and one reverse-diffusion predictor per level: 2 steps - 1 network calls.

    The last prediction adds no noise.
    """
    sigmas = karras_sigmas(model.schedule, steps)
    x = starting_point(noise, sigmas[0])
    fresh = _noise_of(seeds, x)
    for i, (sigma, following) in enumerate(pairwise(sigmas)):
        if i > 0:
            x = _correct(x, _score(model, x, sigma), fresh(), SNR)
        variance = sigma**2 - following**2
        x = x + variance * _score(model, x, sigma)
        if following > 0:
            x = x + variance**0.5 * fresh()
        if on_step is not None:
            on_step(i + 1, steps)
    return x


@torch.no_grad()
def score_sde(
    model: Denoiser, noise: Tensor, seeds: Sequence[int], steps: int, on_step: OnStep | None = None
) -> Tensor:
    """The sampler of a score SDE's own pipeline (diffusers' ScoreSdeVePipeline), with the settings of its schedule.

    It corrects at the first level too, and its last step returns the mean.
    """
    schedule = model.schedule
    assert isinstance(schedule, VeSchedule)
    levels, table = schedule.own_levels(steps), schedule.predictor_levels(steps)
    x = noise * levels[0] - 1  # pure noise around 0 in the network's [0, 1]
    fresh = _noise_of(seeds, x)
    for i, (sigma, (high, low)) in enumerate(zip(levels, pairwise(table), strict=False)):
        for _ in range(schedule.correct_steps):
            x = _correct(x, _score(model, x, sigma), fresh(), schedule.snr)
        x = x + (high**2 - low**2) * _score(model, x, sigma)
        if i + 1 < steps:
            x = x + (high**2 - low**2) ** 0.5 * fresh()
        if on_step is not None:
            on_step(i + 1, steps)
    return x


def _noise_of(seeds: Sequence[int], like: Tensor) -> Callable[[], Tensor]:
    """A function that draws the next noise [B, C, H, W] of each image, from its seed alone."""
    streams = [seed_generator(seed, "predictor-corrector") for seed in seeds]
    return lambda: torch.stack([torch.randn(like.shape[1:], generator=g) for g in streams]).to(like)


def _score(model: Denoiser, x: Tensor, sigma: float) -> Tensor:
    return (model(x, per_image(sigma, x)) - x) / sigma**2


def _correct(x: Tensor, score: Tensor, noise: Tensor, snr: float) -> Tensor:
    ratio = snr * noise.flatten(1).norm(dim=1) / score.flatten(1).norm(dim=1).clamp(min=1e-12)
    size = 2 * ratio.square().reshape(-1, 1, 1, 1)
    return x + size * score + (2 * size).sqrt() * noise


PREDICTOR_CORRECTOR = SamplerKind(
    "pc",
    steps=500,
    sample=lambda model, noise, r: predictor_corrector(model, noise, r.seeds, r.steps, r.on_step),
    calls=lambda steps: 2 * steps - 1,
    deterministic=False,
)
