"""Our chains against diffusers' schedulers, step by step, on one noise: for every schedule, prediction and variance."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.compute.random import latents, seed_generator
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.chain import Chain
from gsd_cli.core.models.condition import UNCONDITIONAL, Condition
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.sampling.discrete import ancestral, ddim
from gsd_cli.core.sampling.samplers import parse_sampler

SEEDS, SHAPE = [3, 11], (1, 6, 6)
SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTIONS = ("epsilon", "v_prediction", "sample")


class Net(torch.nn.Module):
    """A smooth function of image and timestep, bounded so that no step amplifies its rounding."""

    def forward(self, x: Tensor, t: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=1.3 * (0.7 * x + t.reshape(-1, 1, 1, 1) / 700).sin())


def model_of(config: dict) -> Denoiser:
    return Denoiser(Net(), BetaSchedule.from_config(config), config["prediction_type"], chain=Chain.from_config(config))


@torch.no_grad()
def by_diffusers(scheduler: DDPMScheduler, noise: Tensor, steps: int, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    scheduler.set_timesteps(steps)
    # their tables are float32 products; at T = 1000 they are off by 1e-4, which has nothing to do with a step
    scheduler.alphas_cumprod = BetaSchedule.from_config(scheduler.config).alphas_bar.float()
    streams = [seed_generator(seed, "ancestral") for seed in SEEDS]
    same: Iterator[Tensor] = iter(lambda: torch.stack([torch.randn(SHAPE, generator=g) for g in streams]), None)
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: next(same))
    x = noise
    for t in scheduler.timesteps:
        x = scheduler.step(Net()(x, t.reshape(1)).sample, t, x).prev_sample
    return x


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_small_log", "fixed_large"])
def test_ancestral_sampling_is_the_pipelines_own(
    schedule: str, prediction: str, variance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = DDPMScheduler(beta_schedule=schedule, prediction_type=prediction, variance_type=variance)
    noise = latents(SEEDS, SHAPE)
    theirs = by_diffusers(scheduler, noise, 50, monkeypatch)
    found = ancestral(model_of(dict(scheduler.config)), noise, SEEDS, 50)
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [{"timestep_spacing": "trailing"}, {"timestep_spacing": "linspace"}, {"steps_offset": 1}, {"clip_sample": False},
     {"clip_sample_range": 0.5}, {"thresholding": True, "sample_max_value": 1.5, "dynamic_thresholding_ratio": 0.9},
     {"variance_type": "fixed_large", "timestep_spacing": "linspace"}],
)  # fmt: skip
def test_all_settings_of_the_scheduler_count(settings: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = DDPMScheduler(prediction_type="sample", **settings)
    noise = latents(SEEDS, SHAPE)
    theirs = by_diffusers(scheduler, noise, 20, monkeypatch)
    found = ancestral(model_of(dict(scheduler.config)), noise, SEEDS, 20)
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-4)
    plain = ancestral(model_of({"prediction_type": "sample"}), noise, SEEDS, 20)
    assert (found - plain).abs().max() > 1e-2


def test_the_two_fixed_variances_are_far_apart() -> None:
    noise = latents(SEEDS, SHAPE)
    small, large, large_log = (
        ancestral(model_of({"prediction_type": "sample", "variance_type": name}), noise, SEEDS, 20)
        for name in ("fixed_small", "fixed_large", "fixed_large_log")
    )
    assert (small - large).abs().max() > 0.05
    assert torch.equal(large, large_log)  # diffusers takes the root of a negative logarithm there


@torch.no_grad()
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(
    "settings", [{}, {"set_alpha_to_one": False, "steps_offset": 1}, {"timestep_spacing": "trailing"}]
)
def test_ddim_is_diffusers(prediction: str, settings: dict) -> None:
    scheduler = DDIMScheduler(prediction_type=prediction, **settings)
    scheduler.set_timesteps(20)
    noise = x = latents(SEEDS, SHAPE)
    for t in scheduler.timesteps:
        x = scheduler.step(Net()(x, t.reshape(1)).sample, t, x, eta=0.0).prev_sample
    torch.testing.assert_close(ddim(model_of(dict(scheduler.config)), noise, 20), x, rtol=0, atol=1e-4)


class GaussianNet(torch.nn.Module):
    """The exact noise estimate for data N(0, 1/4): every chain must end with that variance, up to its step size."""

    def forward(self, x: Tensor, t: Tensor) -> SimpleNamespace:
        sigma = BetaSchedule.linear().sigma(t).reshape(-1, 1, 1, 1)
        return SimpleNamespace(sample=sigma * x * (1 + sigma**2).sqrt() / (0.25 + sigma**2))


def test_ddim_ends_with_the_datas_variance_at_every_number_of_steps() -> None:
    """The map is linear: x = factor * noise, and factor tends to 1/2. Steps that do not divide T are no exception."""
    model = Denoiser(GaussianNet(), BetaSchedule.linear())
    one = torch.ones(1, 1, 1, 1)
    errors = {n: abs(ddim(model, one, n, clip=False).item() - 0.5) for n in (50, 60, 100, 110, 200, 300, 600, 1000)}
    assert all(error < 3 / n for n, error in errors.items()), errors
    assert ddim(model, one, 1, clip=False).abs().item() < 0.01  # one call at the top gives the mean, not the noise


def test_a_chain_takes_no_more_steps_than_there_are_levels() -> None:
    model = Denoiser(GaussianNet(), BetaSchedule.linear(100))
    for name in ("ddim-101", "msa-1000"):
        with pytest.raises(GsdError, match="100 noise levels") as caught:
            parse_sampler(name).fit(model, torch.device("cpu"))
        assert caught.value.code == ExitCode.USAGE
    assert parse_sampler("ddim-100").fit(model, torch.device("cpu")).steps == 100


def test_images_of_another_chain_are_kept_under_another_name() -> None:
    usual = Denoiser(Net(), BetaSchedule.linear())
    other = Denoiser(Net(), BetaSchedule.linear(), chain=Chain("fixed_small"))
    for name in ("msa", "ddim-50"):
        assert parse_sampler(name).cache_name(usual) == name  # caches from before stay right
        assert parse_sampler(name).cache_name(other) != name
    assert parse_sampler("ddim-30").cache_name(usual) != "ddim-30"  # its levels have changed
    assert parse_sampler("dpm++-20").cache_name(other) == "dpm++-20"


@pytest.mark.parametrize("kind", ["euler", "heun", "dpm++", "pc", "hybrid"])
def test_continuous_samplers_take_any_number_of_steps(kind: str) -> None:
    class Exact:
        schedule, shape, conditions, clip_sample = BetaSchedule.linear(), (1, 2, 2), UNCONDITIONAL, True

        def __init__(self) -> None:
            self.seen: list[float] = []

        def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
            self.seen.append(sigma[0].item())
            return x * 0.25 / (0.25 + sigma.reshape(-1, 1, 1, 1) ** 2)

        def with_condition(self, condition: Condition) -> Exact:
            return self

    for steps in (4, 5, 7, 33) if kind == "hybrid" else (1, 2, 3, 7, 33):
        model = Exact()
        sampler = parse_sampler(f"{kind}-{steps}").fit(model, torch.device("cpu"))
        model.seen.clear()
        found = sampler(model, latents(SEEDS, (1, 2, 2)), SEEDS)
        assert found.isfinite().all()
        levels = np.unique(model.seen)
        assert len(levels) == steps and levels[-1] == pytest.approx(model.schedule.sigmas[-1].item())
