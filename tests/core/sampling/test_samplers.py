from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from torch import Tensor

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.catalogue.registry import BASELINES, ONE_STEP, SAMPLERS, SMALLEST_STEPS
from gsd_cli.compute.random import generator_for, latents
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.core.sampling.discrete import ancestral, ddim
from gsd_cli.core.sampling.samplers import SAMPLER_KINDS, parse_sampler
from gsd_cli.core.training.unets import build_unet

SEEDS = [3, 11]


@pytest.fixture(scope="module")
def model() -> Denoiser:
    torch.manual_seed(2)
    return Denoiser(build_unet("tiny", 8, 1).eval().requires_grad_(False), BetaSchedule.linear())


@pytest.fixture(scope="module")
def smallest() -> Denoiser:
    """One level and no middle, for the test that takes 2000 calls."""
    torch.manual_seed(3)
    net = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(4,), norm_num_groups=2,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), mid_block_type=None,
    )  # fmt: skip
    return Denoiser(net.eval().requires_grad_(False), BetaSchedule.linear())


@pytest.fixture(scope="module")
def trained() -> Denoiser:
    """The bundled teacher: under clipping a random network amplifies the last digit of a step to the first."""
    return load_teacher("ddpm-fashion").denoiser


@torch.no_grad()
def _ddpm_of_diffusers(model: Denoiser, noise: Tensor, steps: int, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    scheduler = DDPMScheduler(variance_type="fixed_large", clip_sample=True)
    scheduler.set_timesteps(steps)
    streams = [generator_for(seed, "ancestral") for seed in SEEDS]

    def same_noise(shape: tuple, **_: object) -> Tensor:
        return torch.stack([torch.randn(*shape[1:], generator=g) for g in streams])

    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", same_noise)
    x = noise
    for t in scheduler.timesteps:
        x = scheduler.step(model.net(x, t).sample, t, x).prev_sample
    return x


@pytest.mark.parametrize(("net", "steps"), [("smallest", None), ("model", 50)])
def test_ancestral_is_ddpm_of_diffusers(
    net: str, steps: int | None, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = request.getfixturevalue(net)
    noise = latents(SEEDS, model.shape)
    theirs = _ddpm_of_diffusers(model, noise, steps or 1000, monkeypatch)
    ours = ancestral(model, noise, SEEDS, steps)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("steps", [10, 50])
@pytest.mark.parametrize("clip", [True, False])
def test_ddim_is_ddim_of_diffusers(trained: Denoiser, steps: int, clip: bool) -> None:
    model = trained
    scheduler = DDIMScheduler(clip_sample=clip, set_alpha_to_one=True, timestep_spacing="leading", steps_offset=0)
    scheduler.set_timesteps(steps)
    noise = x = latents(SEEDS, model.shape)
    for t in scheduler.timesteps:
        x = scheduler.step(model.net(x, t).sample, t, x, eta=0.0).prev_sample
    scale = 1.0 if clip else x.abs().max().item()
    torch.testing.assert_close(ddim(model, noise, steps, clip=clip), x, rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim"])
def test_an_image_depends_on_its_seed_alone(trained: Denoiser, sampler: str) -> None:
    model = trained

    def sample(seeds: list[int]) -> Tensor:
        noise = latents(seeds, model.shape)
        return ancestral(model, noise, seeds, 20) if sampler == "ancestral" else ddim(model, noise, 20)

    together = sample([5, 3, 8])
    for position, seed in enumerate([5, 3, 8]):
        # twenty steps carry the rounding of one batch size or another along: an 8-bit step is 80 times this
        torch.testing.assert_close(together[position], sample([seed])[0], rtol=0, atol=1e-4)
    assert (together[0] - together[1]).abs().max() > 0.1


@pytest.mark.parametrize("steps", [4, 7])
def test_steps_are_reported(model: Denoiser, steps: int) -> None:
    seen: list[tuple[int, int]] = []
    noise = latents([0], model.shape)
    ancestral(model, noise, [0], steps, on_step=lambda i, n: seen.append((i, n)))
    ddim(model, noise, steps, on_step=lambda i, n: seen.append((i, n)))
    assert seen == [(i + 1, steps) for i in range(steps)] * 2


@pytest.mark.parametrize(
    ("name", "words"),
    [("msa", ("msa", None)), ("msa-100", ("msa", 100)), ("ddim", ("ddim", None)), ("dpm++-20", ("dpm++", 20)),
     ("hybrid-4", ("hybrid", 4)), ("one-step-teacher", ("one-step-teacher", 1))],
)  # fmt: skip
def test_names_of_samplers(name: str, words: tuple[str, int | None]) -> None:
    sampler = parse_sampler(name)
    assert (sampler.name, sampler.kind, sampler.steps) == (name, *words)


@pytest.mark.parametrize("name", ["", "ms", "msa-", "ddim-0", "ddim-1001", "ddim-\u0665", "hybrid-3", "one-step", "-5"])
def test_what_is_no_sampler_is_said(name: str) -> None:
    with pytest.raises(GsdError, match="unknown sampler") as raised:
        parse_sampler(name)
    assert raised.value.code == ExitCode.USAGE


def test_the_catalogue_names_every_sampler_as_its_record_does() -> None:
    assert {name: kind.steps for name, kind in SAMPLER_KINDS.items()} == {**SAMPLERS, ONE_STEP: 1}
    assert {name: kind.smallest for name, kind in SAMPLER_KINDS.items() if kind.smallest != 1} == SMALLEST_STEPS
    assert all(kind.name == name for name, kind in SAMPLER_KINDS.items())
    assert {parse_sampler(name).kind for name in BASELINES} == SAMPLER_KINDS.keys()
