"""The samplers that step as the teacher's own scheduler does: MSA and DDIM, for every kind of teacher."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from gsd_cli.catalogue.families import BETAS, EDM, FLOW, SCORE_SDE
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.edm_config import HEUN
from gsd_cli.core.models.edm_schedule import DPM_SOLVER, EdmSchedule
from gsd_cli.core.models.flow_schedule import EULER as FLOW_EULER
from gsd_cli.core.models.flow_schedule import FlowSchedule
from gsd_cli.core.models.schedule import ContinuousSchedule
from gsd_cli.core.sampling.discrete import ancestral, ddim
from gsd_cli.core.sampling.ode import heun_step, starting_point
from gsd_cli.core.sampling.predictor_corrector import score_sde
from gsd_cli.core.sampling.sampler_kind import Request, SamplerKind


def own_steps(model: Denoiser, steps: int) -> list[float] | list[int]:
    """Where the teacher's scheduler steps: timesteps of a DDPM, else noise levels; from high to low."""
    if isinstance(model.schedule, ContinuousSchedule):
        return model.schedule.own_levels(steps)
    return model.chain.timesteps(model.schedule.steps, steps)


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


@torch.no_grad()
def _flow(model: Denoiser, noise: Tensor, request: Request) -> Tensor:
    """The teacher's own solver: Euler's, or diffusers' multistep DPM-Solver++ with the teacher's settings."""
    schedule = model.schedule
    assert isinstance(schedule, FlowSchedule)
    if schedule.solver == FLOW_EULER:
        return _euler_over_own_levels(model, noise, request)
    scheduler, x = schedule.own_scheduler(request.steps), noise
    for i, time in enumerate(scheduler.timesteps):
        t = float(time) / schedule.count  # diffusers rounds the time that the network is given, and not that of x
        raw = model.raw(x / (1 - t), per_image(t / (1 - t), x))
        x = scheduler.step(raw, time, x).prev_sample
        if request.on_step is not None:
            request.on_step(i + 1, request.steps)
    return x


@torch.no_grad()
def _edm(model: Denoiser, noise: Tensor, request: Request) -> Tensor:
    """The teacher's own solver: Euler's, Heun's, or diffusers' multistep DPM-Solver++ with the teacher's settings."""
    assert isinstance(model.schedule, EdmSchedule)
    if model.schedule.solver == HEUN:
        return _heun_over_own_levels(model, noise, request)
    if model.schedule.solver == DPM_SOLVER:
        return _steps_of_diffusers(model, noise, request)
    return _euler_over_own_levels(model, noise, request)


def _heun_over_own_levels(model: Denoiser, noise: Tensor, request: Request) -> Tensor:
    """Karras et al. (2022), algorithm 1 without churn. It starts at sigma_max times the noise, without the data."""
    assert isinstance(model.schedule, ContinuousSchedule)
    levels = model.schedule.own_levels(request.steps)
    x = levels[0] * noise
    for i, (sigma, following) in enumerate(pairwise(levels)):
        x = heun_step(model, x, sigma, following)
        if request.on_step is not None:
            request.on_step(i + 1, request.steps)
    return x


def _steps_of_diffusers(model: Denoiser, noise: Tensor, request: Request) -> Tensor:
    """The steps of the teacher's own scheduler, an object of diffusers."""
    scheduler = model.schedule.to_scheduler(model.prediction, model.chain)
    scheduler.set_timesteps(request.steps, device=noise.device)
    x = scheduler.init_noise_sigma * noise
    for i, (time, sigma) in enumerate(zip(scheduler.timesteps, scheduler.sigmas.tolist(), strict=False)):
        x = scheduler.step(model.raw(x, per_image(sigma, x)), time, x).prev_sample
        if request.on_step is not None:
            request.on_step(i + 1, request.steps)
    return x


OWN: dict[str, Callable[[Denoiser, Tensor, Request], Tensor]] = {
    BETAS: lambda model, noise, r: ancestral(model, noise, r.seeds, r.steps, r.clip, r.on_step),
    FLOW: _flow,
    EDM: _edm,
    SCORE_SDE: lambda model, noise, r: score_sde(model, noise, r.seeds, r.steps, r.on_step),
}
"""What samples each kind of teacher in its own pipeline: the paper's multi-step baseline."""


def _ddim(model: Denoiser, noise: Tensor, request: Request) -> Tensor:
    if isinstance(model.schedule, ContinuousSchedule):
        return _euler_over_own_levels(model, noise, request)
    return ddim(model, noise, request.steps, request.clip, request.on_step)


MSA = SamplerKind(
    "msa",
    steps=None,
    sample=lambda model, noise, r: OWN[model.schedule.family](model, noise, r),
    deterministic=False,
    discrete=True,
)
DDIM = SamplerKind("ddim", steps=50, sample=_ddim, discrete=True)
