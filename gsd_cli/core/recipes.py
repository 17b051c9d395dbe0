"""Noise recipes: which levels the fake score learns at, which ones the generator is judged at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gsd_cli.core.noise import NoiseSchedule
from gsd_cli.options import DistillSettings

SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 80.0, 7.0
SIGMA_DATA = 0.5
DEEPEST = 0.8
"""How far up the Karras grid the generator's levels go: sigma <= 24.4."""


@dataclass(frozen=True)
class Recipe:
    """fake_sigma, generator_sigma: n levels drawn from a random generator, float32 [n] on the CPU.
    weight(sigma): the fake score's loss weight per squared pixel of the clean estimate, [n]."""

    fake_sigma: Callable[[int, torch.Generator], Tensor]
    generator_sigma: Callable[[int, torch.Generator], Tensor]
    weight: Callable[[Tensor], Tensor]


def build_recipe(settings: DistillSettings, schedule: NoiseSchedule) -> Recipe:
    """The recipe that `--noise` names; `auto` is the discrete one, since every teacher gsd reads is discrete."""
    return edm_recipe(schedule) if settings.noise == "edm" else ddpm_recipe(schedule, settings.t_min, settings.t_max)


def ddpm_recipe(schedule: NoiseSchedule, t_min: int, t_max: int) -> Recipe:
    """Both draw t uniformly in {t_min..t_max}; the fake score's loss is the plain eps error of Ho et al. (2020)."""

    def draw(n: int, random: torch.Generator) -> Tensor:
        return schedule.sigmas[torch.randint(t_min, t_max + 1, (n,), generator=random)].float()

    return Recipe(draw, draw, lambda sigma: sigma**-2)


def edm_recipe(schedule: NoiseSchedule) -> Recipe:
    """Karras et al. (2022) for the fake score, log-normal levels and their weight; the Karras grid up to
    DEEPEST for the generator (Zhou et al., ICML 2024). Levels outside a discrete schedule are moved to its ends."""
    low, high = schedule.sigmas[0].item(), schedule.sigmas[-1].item()

    def fake(n: int, random: torch.Generator) -> Tensor:
        return (1.2 * torch.randn(n, generator=random) - 1.2).exp().clamp(low, high)

    def generator(n: int, random: torch.Generator) -> Tensor:
        return karras_level(DEEPEST * torch.rand(n, generator=random)).clamp(low, high)

    return Recipe(fake, generator, lambda sigma: (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2)


def karras_level(u: Tensor) -> Tensor:
    """The noise level at u in [0, 1] of the grid from 0.002 to 80, rho = 7 (Karras et al. 2022, eq. 5)."""
    low, high = SIGMA_MIN ** (1 / RHO), SIGMA_MAX ** (1 / RHO)
    return (low + u * (high - low)) ** RHO
