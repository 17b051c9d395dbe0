"""Samplers by name, as `--compare` takes them: msa, ddim-50, heun-18, dpm++-20, ..."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.catalogue.families import BETAS
from gsd_cli.catalogue.registry import BASELINES, sampler_words
from gsd_cli.core.models.chain import require_steps
from gsd_cli.core.models.denoiser import GSD_CHAIN, Denoiser
from gsd_cli.core.models.schedule import ContinuousSchedule
from gsd_cli.core.sampling.hybrid import HYBRID
from gsd_cli.core.sampling.ode import DPM_SOLVER, EULER, HEUN
from gsd_cli.core.sampling.one_step import ONE_STEP_TEACHER
from gsd_cli.core.sampling.own import DDIM, MSA, own_steps
from gsd_cli.core.sampling.predictor_corrector import PREDICTOR_CORRECTOR
from gsd_cli.core.sampling.sampler_kind import OnStep, Request, SamplerKind

SAMPLER_KINDS: dict[str, SamplerKind] = {
    kind.name: kind for kind in (MSA, DDIM, EULER, HEUN, DPM_SOLVER, PREDICTOR_CORRECTOR, HYBRID, ONE_STEP_TEACHER)
}


@dataclass(frozen=True)
class Sampler:
    """A kind of sampler (a key of `SAMPLER_KINDS`) with its number of steps; None for the kind's own number.

    `sigmas` are noise levels fitted to one teacher.
    """

    name: str
    kind: str
    steps: int | None
    sigmas: tuple[float, ...] = ()

    @property
    def deterministic(self) -> bool:
        """Whether the image is a function of the noise alone."""
        return SAMPLER_KINDS[self.kind].deterministic

    def fit(self, model: Denoiser, device: torch.device) -> Sampler:
        """This sampler with noise levels fitted to a teacher, for a kind that fits them; else itself.

        Raises GsdError (exit 2) for more steps than a discrete DDPM has noise levels, if the kind visits each once.
        """
        if SAMPLER_KINDS[self.kind].discrete and not isinstance(model.schedule, ContinuousSchedule):
            require_steps(model.schedule.steps, self.steps_for(model))
        fit = SAMPLER_KINDS[self.kind].fit
        return self if fit is None else replace(self, sigmas=fit(model, self.steps_for(model), device))

    def steps_for(self, model: Denoiser) -> int:
        """The number of steps on this model."""
        return self.steps or SAMPLER_KINDS[self.kind].steps or model.schedule.own_steps

    def calls(self, model: Denoiser) -> int:
        """Network calls per image; guidance takes two for each estimate."""
        steps = self.steps_for(model)
        calls = model.schedule.own_calls(steps) if self.kind == MSA.name else SAMPLER_KINDS[self.kind].calls(steps)
        return calls if model.guidance == 1 else 2 * calls

    def name_on(self, model: Denoiser) -> str:
        """Its name, and the model's guidance if it has some."""
        return self.name if model.guidance == 1 else f"{self.name}, guidance {model.guidance:g}"

    def cache_name(self, model: Denoiser) -> str:
        """The name under which images of this model by this sampler are kept: that of the sampler, with a mark where
        they depend on more of the model than its network."""
        if model.guidance != 1:
            return f"{self.cache_name(model.with_guidance(1))}-guidance-{model.guidance:g}"
        if not SAMPLER_KINDS[self.kind].discrete:
            return self.name
        steps = self.steps_for(model)
        ours = model.schedule.family == BETAS and model.chain == GSD_CHAIN
        if ours and steps > 1 and model.schedule.steps % steps == 0:
            return self.name
        facts = (model.chain, own_steps(model, steps), *model.schedule.own_facts)
        return f"{self.name}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:8]}"

    def __call__(
        self,
        model: Denoiser,
        noise: Tensor,
        seeds: Sequence[int],
        on_step: OnStep | None = None,
        clip: bool | None = None,
    ) -> Tensor:
        """Images from noise [B, C, H, W] ~ N(0, I), about [-1, 1]; `seeds` decide the further noise of each image.

        clip: False keeps the discrete chains from limiting the clean estimate; None as the model's own sampler does.
        """
        clip = model.clip_sample if clip is None else clip
        fitted = self if self.sigmas else self.fit(model, noise.device)
        request = Request(self.steps_for(model), seeds, clip, fitted.sigmas, on_step)
        return SAMPLER_KINDS[self.kind].sample(model, noise, request)


def parse_sampler(name: str) -> Sampler:
    """Read a sampler's name. Raises GsdError (exit 2) for an unknown one."""
    words = sampler_words(name)
    if words is None:
        raise GsdError(f"unknown sampler {name!r}", hint=", ".join(BASELINES), code=ExitCode.USAGE)
    return Sampler(name, *words)
