"""Score SDE, variance exploding (Song et al., ICLR 2021): x' = y' + sigma' n, and the network predicts the score.

Its images lie in [0, 1]. gsd's x = 2 x' - 1 in [-1, 1] has twice its noise: sigma = 2 sigma'.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.catalogue.families import SCORE_SDE
from gsd_cli.core.models.chain import Chain
from gsd_cli.core.models.precondition import Precondition
from gsd_cli.core.models.schedule import MAX_STEPS, ContinuousSchedule

HIGHEST = 1e5
"""The largest sigma' of a readable schedule. The published ones end at 50 to 1348."""

OUTPUTS = {
    # y' = x' + sigma'^2 score', in gsd's scale; diffusers' network itself divides by sigma'
    "score": Precondition(
        divisor=lambda sigma: torch.full_like(sigma, 2.0),
        clean=lambda raw, x, sigma: x + sigma**2 / 2 * raw,
        amplification=lambda sigma: sigma**2 / 2,
        shift=0.5,
    ),
}


@dataclass(frozen=True)
class VeSchedule(ContinuousSchedule):
    """The levels of diffusers' ScoreSdeVeScheduler, geometric between sigma_min and sigma_max.

    sigma_min, sigma_max: sigma', of images in [0, 1]. count: their number. snr: the signal-to-noise ratio of a
    corrector step. correct_steps: corrector steps per level. end: the time in [0, 1] of the last level.
    """

    sigma_min: float = 0.01
    sigma_max: float = 1348.0
    count: int = 2000
    snr: float = 0.15
    correct_steps: int = 1
    end: float = 1e-5
    family = SCORE_SDE
    geometric = True
    outputs = OUTPUTS

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> VeSchedule:
        """Read a diffusers scheduler config. Raises GsdError (exit 3) for numbers that no schedule has."""
        try:
            found = cls(
                float(config.get("sigma_min", 0.01)),
                float(config.get("sigma_max", 1348.0)),
                int(config.get("num_train_timesteps", 2000)),
                float(config.get("snr", 0.15)),
                int(config.get("correct_steps", 1)),
                float(config.get("sampling_eps", 1e-5)),
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise GsdError(f"the schedule is not made of numbers: {error}", hint="the file is damaged") from error
        levels = 0 < found.sigma_min < found.sigma_max <= HIGHEST and 2 <= found.count <= MAX_STEPS
        if not (levels and 0 < found.snr < 10 and 0 <= found.correct_steps <= 100 and 0 <= found.end < 1):
            raise GsdError(
                f"a score SDE with {found.count} levels from {found.sigma_min:g} to {found.sigma_max:g}, snr "
                f"{found.snr:g}, {found.correct_steps} corrector steps and sampling_eps {found.end:g}",
                hint="the file is damaged",
            )
        return found

    @property
    def sigmas(self) -> Tensor:
        """2 sigma', geometric; float64 [T]."""
        return 2 * self._geometric(self.count)

    @property
    def facts(self) -> Tensor:
        """The levels and what its own sampler depends on."""
        return torch.cat([self.sigmas, torch.tensor([self.snr, self.correct_steps, self.end], dtype=torch.float64)])

    @property
    def own_steps(self) -> int:
        """Its own sampler visits every level."""
        return self.count

    @property
    def own_facts(self) -> tuple[Any, ...]:
        """The settings of its own corrector."""
        return self.snr, self.correct_steps

    def own_calls(self, steps: int) -> int:
        """The corrector's steps and the predictor's."""
        return steps * (1 + self.correct_steps)

    def timestep(self, sigma: Tensor) -> Tensor:
        """sigma' at sigma; the network takes its logarithm."""
        return sigma / 2

    def own_levels(self, steps: int) -> list[float]:
        """The levels at which its own sampler calls the network, in gsd's scale, then 0.

        They are those of ScoreSdeVeScheduler. The exception is one step, which diffusers takes at the lowest level.
        """
        time = torch.linspace(1, self.end, steps, dtype=torch.float64) if steps > 1 else torch.ones(1).double()
        levels: list[float] = (2 * self.sigma_min * (self.sigma_max / self.sigma_min) ** time).tolist()
        return [*levels, 0.0]

    def predictor_levels(self, steps: int) -> list[float]:
        """The levels between which its own predictor steps, in gsd's scale, then 0.

        They differ from `own_levels` by a ten-thousandth: ScoreSdeVeScheduler keeps two tables.
        """
        return [*(2 * self._geometric(steps)).flip(0).tolist(), 0.0]

    def to_scheduler(self, prediction: str, chain: Chain) -> Any:
        """A ScoreSdeVeScheduler; the chain is a DDPM's."""
        from diffusers import ScoreSdeVeScheduler

        return ScoreSdeVeScheduler(
            num_train_timesteps=self.count,
            snr=self.snr,
            sigma_min=self.sigma_min,
            sigma_max=self.sigma_max,
            sampling_eps=self.end,
            correct_steps=self.correct_steps,
        )

    def _geometric(self, count: int) -> Tensor:
        """`count` values of sigma', from the lowest to the highest; the highest alone if there is one."""
        low = math.log(self.sigma_min if count > 1 else self.sigma_max)
        return torch.linspace(low, math.log(self.sigma_max), count, dtype=torch.float64).exp()
