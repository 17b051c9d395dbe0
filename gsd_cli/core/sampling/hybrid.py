"""Hybrid time stepping: large first-order steps at high noise, second-order ones at low noise.

Where the trajectories of the probability-flow ODE are nearly straight a first-order step is as good
as a second-order one at half the price; near the image they bend. A pilot run fits the step sizes to the
teacher so that every step makes the same local error.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.compute.random import latents
from gsd_cli.core.models.condition import seed_conditions
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.sampling.ode import heun_step, karras_sigmas, slope, starting_point
from gsd_cli.core.sampling.sampler_kind import OnStep, SamplerKind

SWITCH = 1.0
"""The noise level below which steps are of second order."""
PILOT_SEEDS = range(8)
PILOT_STEPS = 64


def first_order_steps(steps: int) -> int:
    """The number of first-order steps: the larger half."""
    return (steps + 1) // 2


@torch.no_grad()
def fit_sigmas(model: Denoiser, steps: int, device: torch.device | str = "cpu") -> list[float]:
    """steps + 1 noise levels, the last 0, sized by a pilot run of the teacher; steps >= 4.

    The local error of a step h is h^2 |x''| / 2 at first order and h^3 |x'''| / 12 at second: step
    densities proportional to |x''|^(1/2) above SWITCH and |x'''|^(1/3) below make them equal. The
    pilot, 8 fixed seeds of 64 Euler steps, estimates both by differences of the slope. Raises GsdError (exit 2) for
    a teacher without levels on both sides of SWITCH.
    """
    fine = karras_sigmas(model.schedule, PILOT_STEPS)[:-1]
    if not fine[-1] < SWITCH < fine[0]:
        raise GsdError(
            f"hybrid steps change their order at sigma {SWITCH:g}; the teacher has {fine[-1]:.3g} to {fine[0]:.3g}",
            hint="use heun or dpm++",
            code=ExitCode.USAGE,
        )
    x = starting_point(latents(PILOT_SEEDS, model.shape).to(device), fine[0])
    model = model.with_condition(seed_conditions(model.conditions, PILOT_SEEDS).to(device))
    slopes = []
    for i, sigma in enumerate(fine):
        slopes.append(slope(model, x, sigma))
        if i + 1 < len(fine):
            x = x + (fine[i + 1] - sigma) * slopes[-1]
    grid = np.array(fine)
    values = torch.stack(slopes).flatten(1).cpu().double().numpy()  # [PILOT_STEPS, N d]
    bend = np.gradient(values, grid, axis=0)
    twist = np.gradient(bend, grid, axis=0)
    first = first_order_steps(steps)
    high = _equal_shares(grid, _size(bend) ** (1 / 2), fine[0], SWITCH, first)
    low = _equal_shares(grid, _size(twist) ** (1 / 3), SWITCH, fine[-1], steps - first - 1)
    return [*high, *low[1:], 0.0]


@torch.no_grad()
def hybrid(model: Denoiser, noise: Tensor, sigmas: Sequence[float], on_step: OnStep | None = None) -> Tensor:
    """Euler steps above SWITCH, Heun's at and below, over `sigmas` (see `fit_sigmas`)."""
    x = starting_point(noise, sigmas[0])
    for i, (sigma, following) in enumerate(pairwise(sigmas)):
        if sigma > SWITCH:
            x = x + (following - sigma) * slope(model, x, sigma)
        else:
            x = heun_step(model, x, sigma, following)
        if on_step is not None:
            on_step(i + 1, len(sigmas) - 1)
    return x


def _size(values: np.ndarray) -> np.ndarray:
    root: np.ndarray = np.sqrt(np.square(values).mean(1))
    return root


def _equal_shares(grid: np.ndarray, density: np.ndarray, high: float, low: float, steps: int) -> list[float]:
    """steps + 1 levels from high to low between which the density, known on a falling grid, has equal integrals."""
    from scipy.integrate import cumulative_trapezoid  # takes a second to import; only the pilot run needs it

    levels = np.array([high, *grid[(grid < high) & (grid > low)], low])
    area = cumulative_trapezoid(np.interp(levels, grid[::-1], density[::-1]), -levels, initial=0)
    shares: list[float] = np.interp(np.linspace(0, area[-1], steps + 1), area, levels).tolist()
    return [high, *shares[1:-1], low]


HYBRID = SamplerKind(
    "hybrid",
    steps=18,
    sample=lambda model, noise, r: hybrid(model, noise, r.sigmas, r.on_step),
    calls=lambda steps: 2 * steps - first_order_steps(steps) - 1,
    smallest=4,
    fit=lambda model, steps, device: tuple(fit_sigmas(model, steps, device)),
)
