"""Solvers against diffusers' schedulers of the same name, and against a case solved by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler, ScoreSdeVeScheduler
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.compute.random import generator_for, latents
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.condition import UNCONDITIONAL, Condition
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.core.sampling.hybrid import SWITCH, fit_sigmas, hybrid
from gsd_cli.core.sampling.ode import dpm_solver, euler, heun, karras_sigmas, starting_point
from gsd_cli.core.sampling.predictor_corrector import predictor_corrector
from gsd_cli.core.sampling.samplers import parse_sampler

SEEDS = [3, 11]
COMMON = {"use_karras_sigmas": True, "timestep_spacing": "linspace", "beta_start": 1e-4, "beta_end": 0.02}


@pytest.fixture(scope="module")
def trained() -> Denoiser:
    return load_teacher("ddpm-fashion").denoiser


@torch.no_grad()
def by_scheduler(scheduler, model: Denoiser, noise: Tensor, steps: int, x: Tensor) -> Tensor:
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t)
        # schedulers round t; the network takes the fractional one that its noise level stands for
        sigma = scheduler.sigmas[scheduler.step_index if scheduler.step_index is not None else 0]
        eps = model.net(scaled, model.schedule.timestep(sigma.reshape(1)).expand(len(x))).sample
        x = scheduler.step(eps, t, x).prev_sample
    return x


@pytest.mark.parametrize(("name", "solver"), [("Euler", euler), ("Heun", heun)])
def test_ode_solvers_are_those_of_diffusers(trained: Denoiser, name: str, solver) -> None:
    scheduler = {"Euler": EulerDiscreteScheduler, "Heun": HeunDiscreteScheduler}[name](**COMMON)
    noise = latents(SEEDS, trained.shape)
    x = starting_point(noise, karras_sigmas(trained.schedule, 8)[0])
    theirs = by_scheduler(scheduler, trained, noise, 8, x)
    torch.testing.assert_close(solver(trained, noise, 8), theirs, rtol=0, atol=2e-4)


def test_dpm_solver_is_that_of_diffusers(trained: Denoiser) -> None:
    scheduler = DPMSolverMultistepScheduler(
        **COMMON, algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint", final_sigmas_type="zero"
    )
    noise = latents(SEEDS, trained.shape)  # variance-preserving scale: unit variance at the start
    theirs = by_scheduler(scheduler, trained, noise, 10, noise)
    torch.testing.assert_close(dpm_solver(trained, noise, 10), theirs, rtol=0, atol=2e-4)


@torch.no_grad()
def test_predictor_corrector_is_that_of_diffusers(trained: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    """One image: diffusers' corrector takes its step size from the batch."""
    steps, seed = 6, 5
    sigmas = karras_sigmas(trained.schedule, steps)
    scheduler = ScoreSdeVeScheduler(snr=0.16, correct_steps=1)
    scheduler.set_timesteps(steps)
    scheduler.discrete_sigmas = torch.tensor(sigmas[:-1][::-1])
    stream = generator_for(seed, "predictor-corrector")
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_sde_ve.randn_tensor", lambda shape, **_: torch.randn(shape, generator=stream)
    )
    noise = latents([seed], trained.shape)
    x = starting_point(noise, sigmas[0])

    def score(x: Tensor, sigma: float) -> Tensor:
        return (trained(x, torch.tensor([sigma])) - x) / sigma**2

    for i, t in enumerate(torch.linspace(1, 0, steps)):
        if i > 0:
            x = scheduler.step_correct(score(x, sigmas[i]), x).prev_sample
        moved = scheduler.step_pred(score(x, sigmas[i]), t, x)
        x = moved.prev_sample if i + 1 < steps else moved.prev_sample_mean
    ours = predictor_corrector(trained, noise, [seed], steps)
    torch.testing.assert_close(ours, x, rtol=0, atol=2e-3)


class Gaussian:
    """Data N(0, v): D(x, sigma) = x v / (v + sigma^2), and the ODE's solution is known."""

    def __init__(self, variance: float):
        self.v, self.schedule, self.shape = variance, BetaSchedule.linear(), (1, 4, 4)
        self.conditions, self.guidance = UNCONDITIONAL, 1.0
        self.calls = 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.calls += 1
        return x * self.v / (self.v + sigma.reshape(-1, 1, 1, 1).double() ** 2)

    def with_condition(self, condition: Condition) -> Gaussian:
        return self

    def answer(self, noise: Tensor) -> Tensor:
        start = self.schedule.sigmas[-1].item()
        return starting_point(noise, start) * (self.v / (self.v + start**2)) ** 0.5


@pytest.mark.parametrize(("solver", "order"), [(euler, 1), (heun, 2), (dpm_solver, 2)])
def test_orders_of_convergence(solver, order: int) -> None:
    model, noise = Gaussian(0.25), torch.randn(2, 1, 4, 4, dtype=torch.float64)
    errors = [(solver(model, noise, n) - model.answer(noise)).abs().max().item() for n in (40, 80)]
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.35)


def test_hybrid_beats_first_order_at_the_same_price() -> None:
    model, noise = Gaussian(0.25), torch.randn(2, 1, 4, 4, dtype=torch.float64)
    sampler = parse_sampler("hybrid-18")
    calls = sampler.calls(model)
    sigmas = fit_sigmas(model, 18)
    model.calls = 0
    mine = (hybrid(model, noise, sigmas) - model.answer(noise)).abs().max()
    assert model.calls == calls == 26
    assert mine < 0.25 * (euler(model, noise, calls) - model.answer(noise)).abs().max()


@pytest.mark.parametrize("steps", [4, 9, 18])
def test_adapted_levels_fall_from_the_largest_to_zero(steps: int) -> None:
    model = Gaussian(0.25)
    sigmas = fit_sigmas(model, steps)
    assert len(sigmas) == steps + 1
    assert sigmas[0] == pytest.approx(model.schedule.sigmas[-1].item())
    assert sigmas[-1] == 0.0
    assert all(a > b for a, b in pairwise(sigmas))
    assert SWITCH in sigmas
    assert sigmas == fit_sigmas(model, steps)


@pytest.mark.parametrize("name", ["euler-5", "heun-4", "dpm++-5", "pc-3", "hybrid-5", "ddim-5", "msa-5"])
def test_calls_are_counted_and_seeds_decide(trained: Denoiser, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = parse_sampler(name).fit(trained, torch.device("cpu"))
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    handle = trained.net.register_forward_hook(count)
    together = sampler(trained, latents([5, 8], trained.shape), [5, 8])
    handle.remove()
    assert calls == sampler.calls(trained)
    alone = sampler(trained, latents([8], trained.shape), [8])
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=5e-4)
    assert sampler.deterministic == (name.split("-")[0] not in ("msa", "pc"))


@pytest.mark.parametrize("name", ["heun-0", "hybrid-3", "pc-", "euler-x", "karras-5", "dpm-5", "heun-1001", ""])
def test_unknown_names_are_usage_errors(name: str) -> None:
    with pytest.raises(GsdError) as caught:
        parse_sampler(name)
    assert caught.value.code == 2
