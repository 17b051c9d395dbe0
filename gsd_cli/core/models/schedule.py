"""The noise levels of a diffusion model, whatever its kind, in variance-exploding scale: x = y + sigma n."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gsd_cli.compute.device import DeviceConstant
from gsd_cli.core.models.chain import Chain
from gsd_cli.core.models.flow_pipeline import FlowPipeline
from gsd_cli.core.models.precondition import Precondition

MAX_STEPS = 1_000_000


class NoiseSchedule(ABC):
    """The levels that a teacher was trained on, and the time its network is given for each."""

    family: str
    """Its kind: a value of `catalogue/families.py`."""

    @property
    @abstractmethod
    def outputs(self) -> Mapping[str, Precondition]:
        """What its networks can predict, by what a scheduler's config calls it (`prediction_type`)."""

    @property
    @abstractmethod
    def sigmas(self) -> Tensor:
        """The teacher's own levels, float64 [T], finite and increasing: evenly spaced in its own time."""

    @property
    def geometric(self) -> bool:
        """Whether its levels are evenly spaced in log sigma."""
        return False

    @property
    @abstractmethod
    def own_steps(self) -> int:
        """The default number of steps of the teacher's own sampler."""

    @property
    def own_facts(self) -> tuple[Any, ...]:
        """What the images of the teacher's own sampler depend on beyond the levels it visits."""
        return ()

    def own_calls(self, steps: int) -> int:
        """The network calls per image of the teacher's own sampler."""
        return steps

    @abstractmethod
    def timestep(self, sigma: Tensor) -> Tensor:
        """The time that the network is given at sigma [B] > 0; float32 [B]."""

    @abstractmethod
    def to_scheduler(self, prediction: str, chain: Chain) -> Any:
        """The scheduler of diffusers that says the same, for a network that predicts `prediction`."""

    def within(self, pipeline: FlowPipeline | None) -> NoiseSchedule:
        """The same in the pipeline of a network, on which that of a flow may depend."""
        return self

    @property
    def steps(self) -> int:
        """T, the number of levels."""
        return len(self.sigmas)

    @property
    def ode_range(self) -> tuple[float, float]:
        """The lowest and the highest level of the probability-flow ODE's solvers."""
        return self.sigmas[0].item(), self.sigmas[-1].item()

    @property
    def facts(self) -> Tensor:
        """What identifies the schedule: numbers on which the teacher's samples depend."""
        return self.sigmas

    @cached_property
    def log_sigmas(self) -> DeviceConstant:
        """log sigma, [T], increasing."""
        return DeviceConstant(self.sigmas.log())

    def sigma(self, index: Tensor) -> Tensor:
        """sigma at a (fractional) index in `sigmas`, interpolated linearly in log sigma; float32, of index's shape."""
        log_sigmas = self.log_sigmas.on(index.device)
        index = index.to(log_sigmas.dtype).clamp(0, self.steps - 1)
        low = index.floor().long().clamp(max=self.steps - 2)
        return torch.lerp(log_sigmas[low], log_sigmas[low + 1], index - low).exp().float()

    def index(self, sigma: Tensor) -> Tensor:
        """The fractional index at which the levels reach sigma, clamped to [0, T - 1]; float32."""
        log_sigmas = self.log_sigmas.on(sigma.device)
        wanted = sigma.to(log_sigmas.dtype).log()
        high = torch.searchsorted(log_sigmas, wanted.contiguous()).clamp(1, self.steps - 1)
        below, above = log_sigmas[high - 1], log_sigmas[high]
        index = high - 1 + (wanted - below) / (above - below)
        return index.clamp(0, self.steps - 1).float()


class ContinuousSchedule(NoiseSchedule):
    """Levels of which the teacher's own sampler chooses some, as many as it has steps."""

    @abstractmethod
    def own_levels(self, steps: int) -> list[float]:
        """The levels of the teacher's own sampler, from high to low: one before each step, and the last one's end."""
