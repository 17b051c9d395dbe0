"""Hybrid time stepping: large first-order steps at high noise, second-order ones at low noise.

Where the trajectories of the probability-flow ODE are nearly straight a first-order step is as good
as a second-order one at half the price; near the image they bend. The sizes of the steps are fitted
to the teacher by a pilot run: every step is to make the same local error.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from gsd_cli.core.denoiser import Denoiser
from gsd_cli.core.noise import latents, seed_labels
from gsd_cli.core.samplers.discrete import Step
from gsd_cli.core.samplers.ode import heun_step, karras_sigmas, slope, starting_point

SWITCH = 1.0
"""The noise level below which steps are of second order."""
PILOT_SEEDS = range(8)
PILOT_STEPS = 64


def first_order_steps(steps: int) -> int:
    """How many of the steps are of first order: the larger half."""
    return (steps + 1) // 2


@torch.no_grad()
def adapted_sigmas(model: Denoiser, steps: int, device: torch.device | str = "cpu") -> list[float]:
    """steps + 1 noise levels, the last 0, sized by a pilot run of the teacher; steps >= 4.

    The local error of a step h is h^2 |x''| / 2 at first order and h^3 |x'''| / 12 at second: step
    densities proportional to |x''|^(1/2) above SWITCH and |x'''|^(1/3) below make them equal. The
    pilot, 8 fixed seeds of 64 Euler steps, estimates both by differences of the slope.
    """
    fine = karras_sigmas(model.schedule, PILOT_STEPS)[:-1]
    x = starting_point(latents(PILOT_SEEDS, model.shape).to(device), fine[0])
    labels = seed_labels(PILOT_SEEDS, model.classes)
    model = model.given(labels if labels is None else labels.to(device))
    slopes = []
    for i, sigma in enumerate(fine):
        slopes.append(slope(model, x, sigma))
        if i + 1 < len(fine):
            x = x + (fine[i + 1] - sigma) * slopes[-1]
    grid = torch.tensor(fine, dtype=torch.float64)
    values = torch.stack(slopes).flatten(1).double().cpu()  # [PILOT_STEPS, N d]
    bend = _derivative(values, grid)
    twist = _derivative(bend, grid)
    first = first_order_steps(steps)
    high = _equal_shares(grid, bend.square().mean(1).sqrt() ** (1 / 2), fine[0], SWITCH, first)
    low = _equal_shares(grid, twist.square().mean(1).sqrt() ** (1 / 3), SWITCH, fine[-1], steps - first - 1)
    return [*high, *low[1:], 0.0]


@torch.no_grad()
def hybrid(model: Denoiser, noise: Tensor, sigmas: list[float], on_step: Step | None = None) -> Tensor:
    """Euler steps above SWITCH, Heun's at and below, over `sigmas` (see `adapted_sigmas`)."""
    x = starting_point(noise, sigmas[0])
    for i, (sigma, following) in enumerate(pairwise(sigmas)):
        if sigma > SWITCH:
            x = x + (following - sigma) * slope(model, x, sigma)
        else:
            x = heun_step(model, x, sigma, following)
        if on_step is not None:
            on_step(i + 1, len(sigmas) - 1)
    return x


def _derivative(values: Tensor, sigma: Tensor) -> Tensor:
    """d values / d sigma along the first axis, by central differences on an uneven grid."""
    (gradient,) = torch.gradient(values, spacing=(sigma,), dim=0)
    return gradient


def _equal_shares(sigma: Tensor, density: Tensor, high: float, low: float, steps: int) -> list[float]:
    """steps + 1 levels from high to low between which the density has equal integrals."""
    inside = (sigma < high) & (sigma > low)
    grid = torch.cat([torch.tensor([high]).double(), sigma[inside], torch.tensor([low]).double()])
    values = _interpolate(grid.flip(0), sigma.flip(0), density.flip(0)).flip(0)
    area = torch.cat([torch.zeros(1).double(), ((values[1:] + values[:-1]) / 2 * (grid[:-1] - grid[1:])).cumsum(0)])
    wanted = torch.linspace(0, 1, steps + 1, dtype=torch.float64) * area[-1]
    levels = _interpolate(wanted, area, grid).tolist()
    levels[0], levels[-1] = high, low
    return [float(level) for level in levels]


def _interpolate(x: Tensor, known_x: Tensor, known_y: Tensor) -> Tensor:
    """Linear interpolation; known_x ascending."""
    right = torch.searchsorted(known_x, x).clamp(1, len(known_x) - 1)
    share = (x - known_x[right - 1]) / (known_x[right] - known_x[right - 1]).clamp(min=1e-300)
    return torch.lerp(known_y[right - 1], known_y[right], share.clamp(0, 1))
