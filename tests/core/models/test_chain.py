"""The settings of a teacher's own chain: read as diffusers reads them, and every number of steps is possible."""

from __future__ import annotations

import inspect
import json
from itertools import pairwise
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.core.models.chain import SPACINGS, VARIANCES, Chain
from gsd_cli.core.models.config_check import LEARNED
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.diffusers_folder import load_denoiser, save_denoiser


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("total", [10, 100, 1000])
def test_every_number_of_steps_has_as_many_distinct_falling_levels(total: int, spacing: str) -> None:
    for offset in (0, 1):
        for steps in range(1, total + 1):
            times = Chain(spacing=spacing, offset=offset).timesteps(total, steps)
            assert len(times) == steps
            assert all(a > b for a, b in pairwise(times))
            assert total > times[0] >= total - max(1, total // steps) and times[-1] >= 0


def test_steps_that_do_not_divide_begin_at_the_top() -> None:
    """diffusers' leading spacing would begin at 599 for 600 of 1000 steps, and at 0 for one."""
    chain = Chain()
    for steps in (1, 3, 7, 300, 600, 999):
        assert chain.timesteps(1000, steps)[0] == 999
    assert chain.timesteps(1000, 50)[0] == 980  # as diffusers has it
    assert chain.timesteps(1000, 1000) == list(range(1000))[::-1]


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("kind", [DDPMScheduler, DDIMScheduler])
def test_the_levels_are_diffusers(kind: type, spacing: str) -> None:
    for offset in (0, 1):
        scheduler = kind(timestep_spacing=spacing, steps_offset=offset)
        chain = Chain.from_config(scheduler.config)
        for steps in (2, 10, 50, 100, 500):
            scheduler.set_timesteps(steps)
            assert chain.timesteps(1000, steps) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("steps", [0, 101, 1000])
def test_more_steps_than_levels_are_refused(steps: int) -> None:
    with pytest.raises(GsdError, match="100 noise levels") as caught:
        Chain().timesteps(100, steps)
    assert caught.value.code == ExitCode.USAGE


def test_what_a_config_leaves_out_is_diffusers_default() -> None:
    default = DDPMScheduler().config
    assert Chain.from_config({}) == Chain.from_config(default) == Chain(variance="fixed_small")


def test_a_missing_clip_sample_is_the_default_of_its_scheduler() -> None:
    named = [name for name in dir(diffusers) if name.endswith("Scheduler")]
    settings = {name: inspect.signature(getattr(diffusers, name).__init__).parameters for name in named}
    with_betas = {name: found for name, found in settings.items() if "beta_start" in found}
    assert {"PNDMScheduler", "EulerDiscreteScheduler", "DDIMScheduler"} <= with_betas.keys()
    for name, found in with_betas.items():
        clips = "clip_sample" in found and found["clip_sample"].default is True
        assert (Chain.from_config({"_class_name": name}).clip is not None) == clips, name
        assert Chain.from_config({"_class_name": name, "clip_sample": not clips}).limits != clips


@pytest.mark.parametrize(
    "config",
    [{"variance_type": "fixed"}, {"timestep_spacing": "karras"}, {"clip_sample_range": "wide"},
     {"clip_sample_range": -1}, {"steps_offset": -1}, {"thresholding": True, "dynamic_thresholding_ratio": 2}],
)  # fmt: skip
def test_what_is_not_supported_is_said(config: dict) -> None:
    with pytest.raises(GsdError) as caught:
        Chain.from_config(config)
    assert caught.value.code == ExitCode.INPUT and caught.value.hint


@pytest.mark.parametrize("variance", [kind for kind in VARIANCES if kind not in LEARNED])
def test_a_generators_folder_keeps_its_teachers_chain(toy_teacher: Denoiser, tmp_path: Path, variance: str) -> None:
    chain = Chain(variance, "trailing", 1, 0.7, (0.9, 1.5))
    save_denoiser(Denoiser(toy_teacher.net, toy_teacher.schedule, chain=chain), tmp_path, half=False)
    assert load_denoiser(tmp_path).chain == chain
    theirs = DDPMScheduler.from_pretrained(tmp_path).config
    assert (theirs.variance_type, theirs.timestep_spacing, theirs.steps_offset) == (variance, "trailing", 1)
    assert (theirs.clip_sample_range, theirs.thresholding) == (0.7, True)
    config = json.loads((tmp_path / "scheduler_config.json").read_text())
    config.pop("variance_type")
    (tmp_path / "scheduler_config.json").write_text(json.dumps(config))
    assert load_denoiser(tmp_path).chain.variance == "fixed_small"


def test_limits_are_those_of_diffusers() -> None:
    x = 3 * torch.randn(5, 2, 4, 4)
    scheduler = DDPMScheduler(thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=2.0)
    chain = Chain.from_config(scheduler.config)
    torch.testing.assert_close(chain.limit(x), scheduler._threshold_sample(x))
    assert torch.equal(Chain(clip=0.5).limit(x), x.clamp(-0.5, 0.5))
    free = Chain.from_config({"clip_sample": False})
    assert torch.equal(free.limit(x), x) and not free.limits
