"""The samplers that step as the teacher's own scheduler does: MSA and DDIM, for every kind of teacher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from gsd_cli.catalogue.families import BETAS, FLOW, SCORE_SDE
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.schedule import ContinuousSchedule, NoiseSchedule
from gsd_cli.core.models.score_sde_schedule import VeSchedule
from gsd_cli.core.sampling.discrete import ancestral, ddim
from gsd_cli.core.sampling.ode import starting_point
from gsd_cli.core.sampling.predictor_corrector import score_sde
from gsd_cli.core.sampling.sampler_kind import Request, SamplerKind


def own_settings(model: Denoiser, steps: int) -> tuple[Any, ...]:
    """What the images of MSA and DDIM depend on besides the network: how the teacher's scheduler steps."""
    schedule = model.schedule
    if isinstance(schedule, VeSchedule):
        return schedule.snr, schedule.correct_steps, schedule.own_levels(steps)
    if isinstance(schedule, ContinuousSchedule):
        return model.chain, schedule.own_levels(steps)
    return model.chain, model.chain.timesteps(schedule.steps, steps)


@torch.no_grad()
def _euler_over_own_levels(model: Denoiser, noise: Tensor, request: Request) -> Tensor:
    """Euler's method in sigma. A straight step in sigma is one in t of a flow, and DDIM's step (Song et al. 2021)."""
    assert isinstance(model.schedule, ContinuousSchedule)
    levels = model.schedule.own_levels(request.steps)
    x = starting_point(noise, levels[0])
    for i, (sigma, following) in enumerate(pairwise(levels)):
        clean = model(x, per_image(sigma, x))
        x = clean + following / sigma * (x - clean)  # exact where sigma stands for an infinite level
        if request.on_step is not None:
            request.on_step(i + 1, request.steps)
    return x


def _calls_of_score_sde(steps: int, schedule: NoiseSchedule) -> int:
    assert isinstance(schedule, VeSchedule)
    return steps * (1 + schedule.correct_steps)


@dataclass(frozen=True)
class OwnSampler:
    """What samples a kind of teacher in its own pipeline. sample, calls: see `SamplerKind`."""

    sample: Callable[[Denoiser, Tensor, Request], Tensor]
    calls: Callable[[int, NoiseSchedule], int] = lambda steps, schedule: steps


OWN: dict[str, OwnSampler] = {
    BETAS: OwnSampler(lambda model, noise, r: ancestral(model, noise, r.seeds, r.steps, r.clip, r.on_step)),
    FLOW: OwnSampler(_euler_over_own_levels),
    SCORE_SDE: OwnSampler(
        lambda model, noise, r: score_sde(model, noise, r.seeds, r.steps, r.on_step), _calls_of_score_sde
    ),
}
"""By the kind of teacher: the paper's multi-step baseline."""


def _ddim(model: Denoiser, noise: Tensor, request: Request) -> Tensor:
    if isinstance(model.schedule, ContinuousSchedule):
        return _euler_over_own_levels(model, noise, request)
    return ddim(model, noise, request.steps, request.clip, request.on_step)


MSA = SamplerKind(
    "msa",
    steps=None,
    sample=lambda model, noise, r: OWN[model.schedule.family].sample(model, noise, r),
    calls=lambda steps, schedule: OWN[schedule.family].calls(steps, schedule),
    deterministic=False,
    discrete=True,
)
DDIM = SamplerKind("ddim", steps=50, sample=_ddim, discrete=True)
