"""Networks that also predict a variance: only ancestral sampling reads it, as diffusers' DDPMScheduler does."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.compute.random import latents, seed_generator
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.chain import Chain
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.diffusers_folder import save_denoiser
from gsd_cli.core.models.fingerprint import teacher_fingerprint
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.core.sampling.samplers import parse_sampler
from tests.support import teachers

SEEDS = [3, 8]


def learned(folder: Path, variance: str = "learned_range", **settings: Any) -> Path:
    scheduler = DDPMScheduler(variance_type=variance, **settings)
    return teachers.with_scheduler(folder, teachers.unet(teachers.TINY, out_channels=2), scheduler)


def read(folder: Path) -> Denoiser:
    return load_teacher(str(folder)).denoiser


class Bounded(torch.nn.Module):
    """A smooth function of image and timestep, bounded so that no step amplifies its rounding, and a variance.

    least: the smallest variance; as `learned` wants it above 0, as `learned_range` wants it about [-1, 1].
    """

    def __init__(self, least: float, span: float):
        super().__init__()
        self.least, self.span = least, span

    def forward(self, x: Tensor, t: Tensor) -> SimpleNamespace:
        shift = t.reshape(-1, 1, 1, 1) / 700
        variance = self.least + self.span * (1 + (3 * x + shift).cos()) / 2
        return SimpleNamespace(sample=torch.cat([1.3 * (0.7 * x + shift).sin(), variance], 1))


@torch.no_grad()
def by_diffusers(scheduler: DDPMScheduler, net: Any, noise: Tensor, steps: int, monkeypatch: Any) -> Tensor:
    streams = [seed_generator(seed, "ancestral") for seed in SEEDS]
    same: Iterator[Tensor] = iter(lambda: torch.stack([torch.randn(1, 8, 8, generator=g) for g in streams]), None)
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: next(same))
    scheduler.set_timesteps(steps)
    scheduler.alphas_cumprod = BetaSchedule.from_config(scheduler.config).alphas_bar.float()  # theirs is off by 1e-4
    x = noise
    for t in scheduler.timesteps:
        x = scheduler.step(net(x, t.reshape(1)).sample, t, x).prev_sample
    return x


@pytest.mark.parametrize("settings", [
    {}, {"clip_sample": False, "prediction_type": "sample"}, {"timestep_spacing": "trailing"}, {"steps_offset": 1},
    {"beta_schedule": "squaredcos_cap_v2"}, {"prediction_type": "v_prediction"}, {"variance_type": "learned"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("steps", [10, 100])
def test_msa_has_the_network_s_variance(settings: dict, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = DDPMScheduler(**{"variance_type": "learned_range", **settings})
    net = Bounded(0.0, 0.02) if scheduler.config.variance_type == "learned" else Bounded(-1.2, 2.4)
    noise = latents(SEEDS, (1, 8, 8))
    theirs = by_diffusers(scheduler, net, noise, steps, monkeypatch)
    schedule, chain = BetaSchedule.from_config(scheduler.config), Chain.from_config(scheduler.config)
    model = Denoiser(net, schedule, scheduler.config.prediction_type, chain=chain)
    torch.testing.assert_close(parse_sampler(f"msa-{steps}")(model, noise, SEEDS), theirs, rtol=0, atol=1e-4)


def test_msa_is_the_scheduler_on_a_folder_s_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = learned(tmp_path / "teacher")
    noise = latents(SEEDS, (1, 8, 8))
    net, scheduler = UNet2DModel.from_pretrained(folder), DDPMScheduler.from_pretrained(folder)
    theirs = by_diffusers(scheduler, net, noise, 20, monkeypatch)
    torch.testing.assert_close(parse_sampler("msa-20")(read(folder), noise, SEEDS), theirs, rtol=0, atol=1e-4)


def test_the_variance_counts(tmp_path: Path) -> None:
    noise = latents(SEEDS, (1, 8, 8))
    own, fixed = (read(learned(tmp_path / kind, kind)) for kind in ("learned_range", "fixed_small"))
    made = [parse_sampler("msa-20")(model, noise, SEEDS) for model in (own, fixed)]
    assert (made[0] - made[1]).abs().max() > 1e-3
    assert parse_sampler("msa-20").cache_name(own) != parse_sampler("msa-20").cache_name(fixed)


@pytest.mark.parametrize("name", ["ddim-4", "heun-4", "dpm++-4", "euler-4", "pc-4", "one-step-teacher"])
def test_nothing_but_msa_reads_the_second_half(name: str, tmp_path: Path) -> None:
    model = read(learned(tmp_path / "teacher"))
    other = copy.deepcopy(model)
    other.net.conv_out.weight.data[1:] += 1
    noise = latents(SEEDS, (1, 8, 8))
    assert torch.equal(parse_sampler(name)(model, noise, SEEDS), parse_sampler(name)(other, noise, SEEDS))
    msa = parse_sampler("msa-4")
    assert not torch.equal(msa(model, noise, SEEDS), msa(other, noise, SEEDS))


def test_no_gradient_reaches_the_second_half(tmp_path: Path) -> None:
    generator = Generator.from_teacher(read(learned(tmp_path / "teacher")), 2.5)
    images = generator(latents(SEEDS, (1, 8, 8)))
    assert images.shape == (2, 1, 8, 8)
    images.square().sum().backward()
    gradient = generator.denoiser.net.conv_out.weight.grad
    assert gradient[:1].abs().sum() > 0
    assert torch.equal(gradient[1:], torch.zeros_like(gradient[1:]))


def test_the_clean_estimate_is_that_of_the_first_half(tmp_path: Path) -> None:
    model = read(learned(tmp_path / "teacher"))
    x, sigma = torch.randn(2, 1, 8, 8), model.schedule.sigmas[[100, 700]].float()
    level = sigma.reshape(-1, 1, 1, 1)
    eps = model.net(x / (1 + level**2).sqrt(), torch.tensor([100.0, 700.0])).sample[:, :1]
    torch.testing.assert_close(model(x, sigma), x - level * eps, rtol=1e-4, atol=1e-4)


def test_a_saved_generator_keeps_both_halves(tmp_path: Path) -> None:
    teacher = load_teacher(str(learned(tmp_path / "teacher")))
    save_denoiser(teacher.denoiser, tmp_path / "again", half=False)
    again = load_teacher(str(tmp_path / "again"))
    x = torch.randn(2, 1, 8, 8)
    for found, wanted in zip(
        again.denoiser.raw_and_variance(x, per_image(2.5, x)),
        teacher.denoiser.raw_and_variance(x, per_image(2.5, x)),
        strict=True,
    ):
        assert torch.equal(found, wanted)
    assert teacher_fingerprint(again) == teacher_fingerprint(teacher)
    assert DDPMScheduler.from_pretrained(tmp_path / "again").config.variance_type == "learned_range"
    assert UNet2DModel.from_pretrained(tmp_path / "again")(x, 5).sample.shape == (2, 2, 8, 8)


@pytest.mark.parametrize(("change", "said"), [
    ({"out_channels": 1}, "predicts no variance"), ({"out_channels": 3}, "1 channels in, 3 out"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(change: dict, said: str, tmp_path: Path) -> None:
    folder = learned(tmp_path / "teacher")
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(GsdError, match=said) as caught:
        load_teacher(str(folder))
    assert caught.value.code == 3
