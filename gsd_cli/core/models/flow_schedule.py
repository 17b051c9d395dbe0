"""Flow matching (Lipman et al. 2023): x_t = (1 - t) y + t n, and the network predicts the velocity n - y.

In variance-exploding scale x = x_t / (1 - t), so that sigma = t / (1 - t) and t = sigma / (1 + sigma).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.catalogue.families import FLOW
from gsd_cli.core.models.chain import Chain
from gsd_cli.core.models.dpm_solver import read_settings, require_deterministic
from gsd_cli.core.models.flow_pipeline import DynamicShift, FlowPipeline
from gsd_cli.core.models.precondition import Precondition
from gsd_cli.core.models.schedule import MAX_STEPS, ContinuousSchedule

HIGHEST = 1e7
"""The noise level that stands for t = 1, which is an infinite one. In float32 its t is still below 1."""
ODE_T = 0.002, 0.998
"""The range of t for the solvers that choose their own levels."""
EULER, DPM_SOLVER = "FlowMatchEulerDiscreteScheduler", "DPMSolverMultistepScheduler"
"""What steps in the teacher's own pipeline: schedulers of diffusers."""
OWN_STEPS = {EULER: 50, DPM_SOLVER: 20}
"""The default number of steps: pipelines take 20 to 50, that of SANA (Xie et al. 2024) 20."""
OWN_LEVELS = ("shift_terminal", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
"""The settings of FlowMatchEulerDiscreteScheduler that change the levels of the teacher's own sampler, and nothing
else."""
FOREIGN = {
    EULER: ("invert_sigmas", "stochastic_sampling"),
    DPM_SOLVER: ("use_dynamic_shifting", "use_lu_lambdas", *OWN_LEVELS),
}
"""Settings that gsd does not support."""

OUTPUTS = {
    "flow_prediction": Precondition(
        divisor=lambda sigma: 1 + sigma,
        clean=lambda raw, x, sigma: (x - sigma * raw) / (1 + sigma),
        amplification=lambda sigma: sigma / (1 + sigma),
    ),
}


@dataclass(frozen=True)
class FlowSchedule(ContinuousSchedule):
    """The levels of diffusers' FlowMatchEulerDiscreteScheduler, or of DPMSolverMultistepScheduler with flow sigmas.

    shift: f in t' = f t / (1 + (f - 1) t), which moves the levels towards noise (Esser et al. 2024); dynamic: what
    takes its place where it depends on the number of patches, which pipeline names. count: T, the number of training
    levels; the network is given T t. solver, own: the teacher's own sampler and its settings.
    """

    shift: float = 1.0
    count: int = 1000
    own: Mapping[str, Any] = field(default_factory=dict)
    dynamic: DynamicShift | None = None
    solver: str = EULER
    pipeline: FlowPipeline | None = None
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
        solver = DPM_SOLVER if config.get("_class_name") == DPM_SOLVER else EULER
        for key in FOREIGN[solver]:
            if config.get(key):
                raise GsdError(f"the teacher's scheduler has {key}, which gsd does not support", hint="see its config")
        if solver == DPM_SOLVER:
            _require_plain_solver(config)
            return cls(shift, count, read_settings(config), solver=solver)
        own = {key: config[key] for key in OWN_LEVELS if config.get(key)}
        return cls(shift, count, own, DynamicShift.from_config(config))

    def within(self, pipeline: FlowPipeline | None) -> FlowSchedule:
        """The same in the pipeline of a network. Raises GsdError (exit 3) for a dynamic shift without one."""
        if self.dynamic is not None and pipeline is None:
            raise GsdError(
                "the teacher's scheduler has use_dynamic_shifting, and its network has no patches to shift by",
                hint="set use_dynamic_shifting to false and shift to a number in its scheduler config",
            )
        return replace(self, pipeline=pipeline)

    @property
    def factor(self) -> float:
        """f: the shift of the network's images. A dynamic one is 1 outside a pipeline, as in diffusers."""
        if self.dynamic is None:
            return self.shift
        return 1.0 if self.pipeline is None else self.dynamic.factor(self.pipeline.patches)

    @property
    def sigmas(self) -> Tensor:
        """sigma = t / (1 - t) for t = 1 / T, ..., 1, shifted; float64 [T]."""
        t, factor = torch.arange(1, self.count + 1, dtype=torch.float64) / self.count, self.factor
        return _to_sigma(factor * t / (1 + (factor - 1) * t))

    @property
    def own_steps(self) -> int:
        """What its pipeline takes, else pipelines at most."""
        steps = None if self.pipeline is None else self.pipeline.steps
        return steps or OWN_STEPS[self.solver]

    @property
    def own_facts(self) -> tuple[Any, ...]:
        """The solver and its settings; those of Euler's method are in the levels."""
        return () if self.solver == EULER else (self.solver, sorted(self.own.items()))

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
        levels: list[float] = _to_sigma(self.own_scheduler(steps).sigmas.double()).tolist()
        return levels

    def own_scheduler(self, steps: int) -> Any:
        """diffusers' scheduler, set to `steps` steps as the teacher's own pipeline sets it."""
        scheduler = self.to_scheduler("flow_prediction", Chain())
        given: dict[str, Any] = {"num_inference_steps": steps}
        if self.solver == EULER and self.pipeline is not None and self.pipeline.even:
            given = {"sigmas": [1 - k / steps for k in range(steps)]}
        if self.dynamic is not None and self.pipeline is not None:
            given["mu"] = self.dynamic.mu(self.pipeline.patches)
        scheduler.set_timesteps(**given)
        return scheduler

    def to_scheduler(self, prediction: str, chain: Chain) -> Any:
        """The scheduler of diffusers; the chain is a DDPM's."""
        import diffusers

        if self.solver == DPM_SOLVER:
            return diffusers.DPMSolverMultistepScheduler(
                num_train_timesteps=self.count, prediction_type="flow_prediction", use_flow_sigmas=True,
                flow_shift=self.shift, **self.own,
            )  # fmt: skip
        dynamic = {} if self.dynamic is None else self.dynamic.to_config()
        return diffusers.FlowMatchEulerDiscreteScheduler(
            num_train_timesteps=self.count, shift=self.shift, **dynamic, **self.own
        )


def _require_plain_solver(config: Mapping[str, Any]) -> None:
    """Raise GsdError (exit 3) unless a DPM-Solver is DPM-Solver++ without noise that ends at the clean image."""
    require_deterministic(config)
    for key, known in (("algorithm_type", "dpmsolver++"), ("final_sigmas_type", "zero")):
        if (value := config.get(key, known)) != known:
            raise GsdError(f"the teacher's scheduler has {key} {value!r}", hint=f"known: {known}")


def _to_sigma(t: Tensor) -> Tensor:
    return (t / (1 - t).clamp(min=1e-300)).clamp(max=HIGHEST)
