"""EDM (Karras et al. 2022, table 1): D = c_skip x + c_out F(c_in x, ln(sigma) / 4)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.catalogue.families import EDM
from gsd_cli.core.models.chain import Chain
from gsd_cli.core.models.dpm_solver import read_settings, require_deterministic
from gsd_cli.core.models.edm_config import HEUN, SOLVER_KEY
from gsd_cli.core.models.precondition import Precondition
from gsd_cli.core.models.schedule import MAX_STEPS, ContinuousSchedule

EULER, DPM_SOLVER = "EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"
"""What steps in the teacher's own pipeline: schedulers of diffusers; or HEUN."""
OWN_STEPS = {EULER: 50, DPM_SOLVER: 50, HEUN: 18}
"""The default number of steps. 18 of Heun's method is the paper's number for CIFAR-10."""
SPACINGS, ENDS = ("karras", "exponential"), ("zero", "sigma_min")


@cache
def edm_outputs(sigma_data: float) -> dict[str, Precondition]:
    """The outputs for data of standard deviation sigma_data. `v_prediction` is `epsilon` with the other sign."""
    variance = sigma_data**2

    def total(sigma: Tensor) -> Tensor:
        return (sigma**2 + variance).sqrt()

    def clean(sign: float, raw: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        return variance / total(sigma) ** 2 * x + sign * sigma_data * sigma / total(sigma) * raw

    def amplification(sigma: Tensor) -> Tensor:
        return sigma_data * sigma / total(sigma)

    return {
        "epsilon": Precondition(total, lambda raw, x, sigma: clean(1, raw, x, sigma), amplification),
        "v_prediction": Precondition(total, lambda raw, x, sigma: clean(-1, raw, x, sigma), amplification),
    }


@dataclass(frozen=True)
class EdmSchedule(ContinuousSchedule):
    """The levels of diffusers' EDM schedulers.

    sigma_data: the standard deviation of the data. spacing: of the levels: `karras` (their eq. 5, with rho) or
    `exponential`. end: the level after the last step. solver, own: the teacher's own sampler and its settings.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    rho: float = 7.0
    count: int = 1000
    spacing: str = "karras"
    end: str = "zero"
    solver: str = EULER
    own: Mapping[str, Any] = field(default_factory=dict)
    family = EDM

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> EdmSchedule:
        """Read a diffusers scheduler config. Raises GsdError (exit 3) for settings that gsd does not know."""
        try:
            low, high = float(config.get("sigma_min", 0.002)), float(config.get("sigma_max", 80.0))
            spread, rho = float(config.get("sigma_data", 0.5)), float(config.get("rho", 7.0))
            count = int(config.get("num_train_timesteps", 1000))
        except (TypeError, ValueError, OverflowError) as error:
            raise GsdError(f"the schedule is not made of numbers: {error}", hint="the file is damaged") from error
        plausible = 1e-6 <= low < high <= 1e5 and 1e-4 <= spread <= 1e4 and 0.1 <= rho <= 100
        if not (plausible and 2 <= count <= MAX_STEPS):
            raise GsdError(
                f"EDM with sigma {low:g} to {high:g}, sigma_data {spread:g}, rho {rho:g} and {count} timesteps",
                hint="the file is damaged",
            )
        spacing, end = config.get("sigma_schedule", "karras"), config.get("final_sigmas_type", "zero")
        for key, value, known in (("sigma_schedule", spacing, SPACINGS), ("final_sigmas_type", end, ENDS)):
            if value not in known:
                raise GsdError(f"the teacher's scheduler has {key} {value!r}", hint=f"known: {', '.join(known)}")
        require_deterministic(config)
        solver = DPM_SOLVER if "DPM" in str(config.get("_class_name")) else EULER
        solver = HEUN if config.get(SOLVER_KEY) == HEUN else solver
        own = read_settings(config) if solver == DPM_SOLVER else {}
        return cls(low, high, spread, rho, count, spacing, end, solver, own)

    @property
    def outputs(self) -> Mapping[str, Precondition]:
        """They depend on the data's standard deviation."""
        return edm_outputs(self.sigma_data)

    @property
    def sigmas(self) -> Tensor:
        """The training levels of diffusers' scheduler, float64 [T], increasing."""
        place = torch.linspace(0, 1, self.count, dtype=torch.float64)
        if self.spacing == "exponential":
            low, high = math.log(self.sigma_min), math.log(self.sigma_max)
            return (low + place * (high - low)).exp()
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return (low + place * (high - low)) ** self.rho

    @property
    def geometric(self) -> bool:
        """Those of Karras et al. are not: more of them are high."""
        return self.spacing == "exponential"

    @property
    def facts(self) -> Tensor:
        """The levels, then sigma_data."""
        return torch.cat([self.sigmas, torch.tensor([self.sigma_data], dtype=torch.float64)])

    @property
    def own_steps(self) -> int:
        """The steps of the solver's publication, or of pipelines."""
        return OWN_STEPS[self.solver]

    @property
    def own_facts(self) -> tuple[Any, ...]:
        """The solver and its settings."""
        return self.solver, sorted(self.own.items())

    def own_calls(self, steps: int) -> int:
        """Heun's method calls the network twice a step, but for the last."""
        return 2 * steps - 1 if self.solver == HEUN else steps

    def timestep(self, sigma: Tensor) -> Tensor:
        """c_noise = ln(sigma) / 4."""
        return sigma.log() / 4

    def own_levels(self, steps: int) -> list[float]:
        """The levels that diffusers' scheduler visits in `steps` steps, from high to low, then the end."""
        scheduler = self.to_scheduler("epsilon", Chain())
        scheduler.set_timesteps(steps)
        levels: list[float] = scheduler.sigmas.double().tolist()
        return levels

    def to_scheduler(self, prediction: str, chain: Chain) -> Any:
        """The EDM scheduler of diffusers; the chain is a DDPM's."""
        import diffusers

        kind: Any = getattr(diffusers, DPM_SOLVER if self.solver == DPM_SOLVER else EULER)
        scheduler = kind(
            sigma_min=self.sigma_min, sigma_max=self.sigma_max, sigma_data=self.sigma_data, rho=self.rho,
            num_train_timesteps=self.count, sigma_schedule=self.spacing, final_sigmas_type=self.end,
            prediction_type=prediction, **self.own,
        )  # fmt: skip
        if self.solver == HEUN:
            scheduler.register_to_config(**{SOLVER_KEY: HEUN})
        return scheduler
