"""Solvers of the probability-flow ODE, in variance-exploding scale: dx / dsigma = (x - D(x, sigma)) / sigma.

Song et al. (ICLR 2021), in the form of Karras et al. (2022), eq. 1 with sigma(t) = t.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.schedule import NoiseSchedule
from gsd_cli.core.sampling.sampler_kind import OnStep, SamplerKind


def karras_sigmas(schedule: NoiseSchedule, steps: int, rho: float = 7.0) -> list[float]:
    """steps + 1 noise levels over the schedule's range from the top, then 0 (Karras et al. 2022, eq. 5)."""
    low, high = schedule.ode_range
    levels = torch.linspace(high ** (1 / rho), low ** (1 / rho), steps, dtype=torch.float64) ** rho
    return [*levels.tolist(), 0.0]


def starting_point(noise: Tensor, sigma: float) -> Tensor:
    """x at the largest noise level, where data and noise together have variance 1 + sigma^2."""
    return noise * math.sqrt(1 + sigma**2)


def slope(model: Denoiser, x: Tensor, sigma: float) -> Tensor:
    """dx / dsigma at (x, sigma)."""
    return (x - model(x, per_image(sigma, x))) / sigma


@torch.no_grad()
def euler(model: Denoiser, noise: Tensor, steps: int, on_step: OnStep | None = None) -> Tensor:
    """First order: `steps` network calls."""
    sigmas = karras_sigmas(model.schedule, steps)
    x = starting_point(noise, sigmas[0])
    for i, (sigma, following) in enumerate(pairwise(sigmas)):
        x = x + (following - sigma) * slope(model, x, sigma)
        if on_step is not None:
            on_step(i + 1, steps)
    return x


@torch.no_grad()
def heun(model: Denoiser, noise: Tensor, steps: int, on_step: OnStep | None = None) -> Tensor:
    """Second order (Karras et al. 2022, algorithm 1 without churn): 2 steps - 1 network calls."""
    sigmas = karras_sigmas(model.schedule, steps)
    x = starting_point(noise, sigmas[0])
    for i, (sigma, following) in enumerate(pairwise(sigmas)):
        x = heun_step(model, x, sigma, following)
        if on_step is not None:
            on_step(i + 1, steps)
    return x


def heun_step(model: Denoiser, x: Tensor, sigma: float, following: float) -> Tensor:
    """One trapezoidal step; the last one, to 0, is Euler's."""
    first = slope(model, x, sigma)
    reached = x + (following - sigma) * first
    if following == 0:
        return reached
    return x + (following - sigma) * (first + slope(model, reached, following)) / 2


@torch.no_grad()
def dpm_solver(model: Denoiser, noise: Tensor, steps: int, on_step: OnStep | None = None) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): `steps` network calls, second order but at the ends."""
    sigmas = karras_sigmas(model.schedule, steps)
    return dpm_steps(lambda x, sigma: model(x, per_image(sigma, x)), starting_point(noise, sigmas[0]), sigmas, on_step)


def dpm_steps(
    denoise: Callable[[Tensor, float], Tensor], x: Tensor, sigmas: Sequence[float], on_step: OnStep | None = None
) -> Tensor:  # fmt: skip
    """The steps of `dpm_solver` from x at the first level to the last, which is 0. denoise(x, sigma): D(x, sigma)."""
    previous, last_h, steps = None, 0.0, len(sigmas) - 1
    for i, (sigma, following) in enumerate(pairwise(sigmas)):
        clean = denoise(x, sigma)
        if following == 0:
            x = clean
        else:
            h = math.log(sigma / following)  # the step in lambda = -log sigma
            estimate = clean if previous is None else clean + (clean - previous) * h / (2 * last_h)
            x = following / sigma * x - math.expm1(-h) * estimate
            previous, last_h = clean, h
        if on_step is not None:
            on_step(i + 1, steps)
    return x


EULER = SamplerKind("euler", steps=50, sample=lambda model, noise, r: euler(model, noise, r.steps, r.on_step))
HEUN = SamplerKind(
    "heun",
    steps=18,
    sample=lambda model, noise, r: heun(model, noise, r.steps, r.on_step),
    calls=lambda steps: 2 * steps - 1,
)
DPM_SOLVER = SamplerKind("dpm++", steps=20, sample=lambda model, noise, r: dpm_solver(model, noise, r.steps, r.on_step))
