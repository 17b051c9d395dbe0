"""Noise recipes (`--noise`): at which noise levels the fake score, the generator and the discriminator are trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.compute.device import DeviceConstant
from gsd_cli.core.distillation.draws import Draw
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.schedule import NoiseSchedule
from gsd_cli.options import DistillSettings

SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 80.0, 7.0
SIGMA_DATA = 0.5
DEEPEST = 0.8
"""The share of the Karras grid that the generator's levels cover: sigma <= 24.4."""


GRAIN_MIN, GRAIN_MAX = 0.01, 0.3
"""Low noise levels: the grain of an image is visible at no other level."""
LOW_SHARE = 0.35
"""Share of low levels in the `pixels` recipe. SiD's grid for pixels has a quarter of its levels below 0.085."""
PIXELS_MIN, PIXELS_MAX = 0.028, 24.0
"""The range of the other levels, as sigma."""
DDPM_T = (20, 793)
"""The range of the `ddpm` recipe, in timesteps of HO: sigma 0.079 to 24.3."""
HO = BetaSchedule.linear()
"""The schedule of Ho et al. (2020), 1000 steps. `--t-min` and `--t-max` count its timesteps, and so stand for noise
levels, whatever the teacher's own schedule is."""
FINE, COARSE = (0.01, 1.0), (1.5, 8.0)
COARSE_SHARE = 1 / 7
"""The two ranges of the discriminator's levels, as sigma, and the share of the second."""


@dataclass(frozen=True)
class NoiseRecipe:
    """How noise levels are drawn for the three updates, and the weight of the fake score's loss.

    fake_sigma, generator_sigma, discriminator_sigma: (n, random generator) -> sigma, float32 [n], on the random
    generator's device. weight(sigma): per squared pixel of the clean estimate, [n].
    """

    fake_sigma: Draw
    generator_sigma: Draw
    weight: Callable[[Tensor], Tensor]
    discriminator_sigma: Draw


def recipe_name(settings: DistillSettings, *, pixels: bool) -> str:
    """Resolve `--noise`: `auto` is `pixels` for a teacher of pixels, and `ddpm` for one of latents, whose finest
    noise comes from an autoencoder."""
    return settings.noise if settings.noise != "auto" else "pixels" if pixels else "ddpm"


def build_recipe(settings: DistillSettings, schedule: NoiseSchedule, *, pixels: bool = True) -> NoiseRecipe:
    """The recipe of these settings, its levels in sigma for any schedule.

    Raises GsdError (exit 2) for levels that the schedule does not have.
    """
    name = recipe_name(settings, pixels=pixels)
    if name == "edm":
        return edm_recipe(schedule)
    ends = [PIXELS_MIN, PIXELS_MAX] if name == "pixels" else [HO.sigmas[t].item() for t in DDPM_T]
    for k, t in enumerate((settings.t_min, settings.t_max)):
        if t is not None:
            ends[k] = _given_level(t, schedule, is_max=k == 1)
    if ends[0] > ends[1]:
        raise GsdError(
            f"the uniform noise levels would go from sigma {ends[0]:.3g} down to {ends[1]:.3g}",
            hint="give a smaller --t-min or a larger --t-max",
            code=ExitCode.USAGE,
        )
    low, high = _spaced(schedule).index(torch.tensor(ends)).round().int().tolist()
    return pixel_recipe(schedule, low, high) if name == "pixels" else ddpm_recipe(schedule, low, high)


def _given_level(t: int, schedule: NoiseSchedule, *, is_max: bool) -> float:
    """The sigma that a `--t-min` or `--t-max` stands for."""
    option, last = "--t-max" if is_max else "--t-min", schedule.sigmas[-1].item()
    if t >= HO.steps:
        raise GsdError(
            f"{option} {t}: it counts the {HO.steps} timesteps of Ho et al.'s schedule, whatever the teacher's is",
            hint=f"give at most {HO.steps - 1}",
            code=ExitCode.USAGE,
        )
    sigma = HO.sigmas[t].item()
    if sigma > last * 1.001:  # schedules of one form differ in their last digits
        largest = int(HO.index(torch.tensor([last])).item())
        raise GsdError(
            f"{option} {t} is sigma {sigma:.3g}, and the teacher's noise ends at sigma {last:.3g}",
            hint=f"give {option} {largest} or less",
            code=ExitCode.USAGE,
        )
    return sigma


def ddpm_recipe(schedule: NoiseSchedule, t_min: int, t_max: int) -> NoiseRecipe:
    """The fake score and the generator draw t uniformly in {t_min..t_max}; the discriminator has its own levels.

    The loss of the fake score is the eps error of Ho et al. (2020).
    """
    draw = _uniform_timestep(schedule, t_min, t_max)
    return NoiseRecipe(draw, draw, lambda sigma: sigma**-2, _discriminator_level(schedule))


def pixel_recipe(schedule: NoiseSchedule, t_min: int, t_max: int) -> NoiseRecipe:
    """As `ddpm_recipe`, but LOW_SHARE of the levels are log-uniform in [GRAIN_MIN, GRAIN_MAX]: uniform timesteps
    rarely give a noise that hides only an image's grain."""
    uniform, low = _uniform_timestep(schedule, t_min, t_max), _log_uniform(schedule, GRAIN_MIN, GRAIN_MAX)
    draw = _either(low, uniform, LOW_SHARE)
    return NoiseRecipe(draw, draw, lambda sigma: sigma**-2, _discriminator_level(schedule))


def edm_recipe(schedule: NoiseSchedule) -> NoiseRecipe:
    """Karras et al. (2022) for the fake score, log-normal levels and their weight; the Karras grid up to
    DEEPEST for the generator (Zhou et al., ICML 2024). Levels are clamped to the range of a discrete schedule."""
    low, high = schedule.sigmas[0].item(), schedule.sigmas[-1].item()

    def fake(n: int, random: torch.Generator) -> Tensor:
        return (1.2 * torch.randn(n, generator=random, device=random.device) - 1.2).exp().clamp(low, high)

    def generator(n: int, random: torch.Generator) -> Tensor:
        return karras_level(DEEPEST * torch.rand(n, generator=random, device=random.device)).clamp(low, high)

    weight = lambda sigma: (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2  # noqa: E731
    return NoiseRecipe(fake, generator, weight, _discriminator_level(schedule))


def karras_level(u: Tensor) -> Tensor:
    """The noise level at u in [0, 1] of the grid from 0.002 to 80, rho = 7 (Karras et al. 2022, eq. 5)."""
    low, high = SIGMA_MIN ** (1 / RHO), SIGMA_MAX ** (1 / RHO)
    return (low + u * (high - low)) ** RHO


def _spaced(schedule: NoiseSchedule) -> NoiseSchedule:
    """The schedule whose timesteps are drawn uniformly: the teacher's own, or HO for a geometric one.

    Of geometric levels 58 % of the `pixels` recipe would lie below 0.3, and 42 % of HO's. A teacher with geometric
    levels was trained at all of them alike.
    """
    return HO if schedule.geometric else schedule


def _uniform_timestep(schedule: NoiseSchedule, t_min: int, t_max: int) -> Draw:
    """Levels of the timesteps t_min..t_max of the spaced schedule, none outside the teacher's own range."""
    first, last = schedule.sigmas[0].item(), schedule.sigmas[-1].item()
    levels = DeviceConstant(_spaced(schedule).sigmas[t_min : t_max + 1].clamp(first, last).float())
    return lambda n, random: levels.on(random.device)[
        torch.randint(t_max + 1 - t_min, (n,), generator=random, device=random.device)
    ]


def _log_uniform(schedule: NoiseSchedule, low: float, high: float) -> Draw:
    """Levels log-uniform in [low, high], clamped to the schedule's range."""
    first, last = schedule.sigmas[0].item(), schedule.sigmas[-1].item()
    span = math.log(high / low)
    return lambda n, random: (
        (math.log(low) + span * torch.rand(n, generator=random, device=random.device)).exp().clamp(first, last)
    )


def _either(one: Draw, other: Draw, share: float) -> Draw:
    """Levels of `one` with probability `share`, else of `other`."""

    def draw(n: int, random: torch.Generator) -> Tensor:
        mine, theirs = one(n, random), other(n, random)
        return torch.where(torch.rand(n, generator=random, device=random.device) < share, mine, theirs)

    return draw


def _discriminator_level(schedule: NoiseSchedule) -> Draw:
    """Mostly fine levels, which show texture, and some coarse ones, which show only shape."""
    return _either(_log_uniform(schedule, *COARSE), _log_uniform(schedule, *FINE), COARSE_SHARE)
