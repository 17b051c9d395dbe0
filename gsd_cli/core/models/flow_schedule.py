"""Flow matching (Lipman et al. 2023): x_t = (1 - t) y + t n, and the network predicts the velocity n - y.

In variance-exploding scale x = x_t / (1 - t), so that sigma = t / (1 - t) and t = sigma / (1 + sigma).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.catalogue.families import FLOW
from gsd_cli.core.models.chain import Chain
from gsd_cli.core.models.precondition import Precondition
from gsd_cli.core.models.schedule import MAX_STEPS, ContinuousSchedule

HIGHEST = 1e7
"""The noise level that stands for t = 1, which is an infinite one. In float32 its t is still below 1."""
ODE_T = 0.002, 0.998
"""The range of t for the solvers that choose their own levels."""
OWN_STEPS = 50
"""The steps of the teacher's own sampler: pipelines take 20 to 50."""
OWN_LEVELS = ("shift_terminal", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
"""The settings of diffusers' scheduler that change the levels of the teacher's own sampler, and nothing else."""

OUTPUTS = {
    "flow_prediction": Precondition(
        divisor=lambda sigma: 1 + sigma,
        clean=lambda raw, x, sigma: (x - sigma * raw) / (1 + sigma),
        amplification=lambda sigma: sigma / (1 + sigma),
    ),
}


@dataclass(frozen=True)
class FlowSchedule(ContinuousSchedule):
    """The levels of diffusers' FlowMatchEulerDiscreteScheduler.

    own: its settings among OWN_LEVELS. shift: f in t' = f t / (1 + (f - 1) t), which moves the levels towards noise
    (Esser et al. 2024). count: T, the number of training levels; the network is given T t.
    """

    shift: float = 1.0
    count: int = 1000
    own: Mapping[str, Any] = field(default_factory=dict)
    family = FLOW
    outputs = OUTPUTS

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> FlowSchedule:
        """Read a diffusers scheduler config. Raises GsdError (exit 3) for settings that gsd does not know."""
        try:
            shift = float(config.get("shift", config.get("flow_shift", 1.0)))
            count = int(config.get("num_train_timesteps", 1000))
        except (TypeError, ValueError, OverflowError) as error:
            raise GsdError(f"the schedule is not made of numbers: {error}", hint="the file is damaged") from error
        if not (0 < shift < 1000 and 2 <= count <= MAX_STEPS):
            raise GsdError(f"a flow with shift {shift:g} and {count} timesteps", hint="the file is damaged")
        for key in ("use_dynamic_shifting", "invert_sigmas", "stochastic_sampling"):
            if config.get(key):
                raise GsdError(f"the teacher's scheduler has {key}, which gsd does not support", hint="see its config")
        return cls(shift, count, {key: config[key] for key in OWN_LEVELS if config.get(key)})

    @property
    def sigmas(self) -> Tensor:
        """sigma = t / (1 - t) for t = 1 / T, ..., 1, shifted; float64 [T]."""
        t = torch.arange(1, self.count + 1, dtype=torch.float64) / self.count
        t = self.shift * t / (1 + (self.shift - 1) * t)
        return _to_sigma(t)

    @property
    def own_steps(self) -> int:
        """What pipelines take at most."""
        return OWN_STEPS

    @property
    def ode_range(self) -> tuple[float, float]:
        """The levels at the ends of ODE_T: at t = 1 there is none."""
        low, high = _to_sigma(torch.tensor(ODE_T, dtype=torch.float64)).tolist()
        return low, high

    def timestep(self, sigma: Tensor) -> Tensor:
        """T t at sigma, of sigma's shape."""
        return self.count * sigma / (1 + sigma)

    def own_levels(self, steps: int) -> list[float]:
        """The levels that diffusers' scheduler visits in `steps` steps, from high to low, then 0."""
        scheduler = self.to_scheduler("flow_prediction", Chain())
        scheduler.set_timesteps(steps)
        levels: list[float] = _to_sigma(scheduler.sigmas.double()).tolist()
        return levels

    def to_scheduler(self, prediction: str, chain: Chain) -> Any:
        """A FlowMatchEulerDiscreteScheduler; the chain is a DDPM's."""
        from diffusers import FlowMatchEulerDiscreteScheduler

        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=self.count, shift=self.shift, **self.own)


def _to_sigma(t: Tensor) -> Tensor:
    return (t / (1 - t).clamp(min=1e-300)).clamp(max=HIGHEST)
