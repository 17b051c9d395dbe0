"""Dynamic shifts: the levels are those of diffusers' scheduler as the pipelines set it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.dit import DIT
from gsd_cli.core.models.flow_pipeline import DynamicShift, FlowPipeline
from gsd_cli.core.models.flow_schedule import FlowSchedule
from gsd_cli.core.models.flux import FLUX
from tests.support import teachers

DYNAMIC: dict[str, Any] = {"use_dynamic_shifting": True}
each_type = pytest.mark.parametrize("kind", ["exponential", "linear"])


def times(levels: list[float]) -> Tensor:
    """t of noise levels."""
    sigmas = torch.tensor(levels, dtype=torch.float64)
    return sigmas / (1 + sigmas)


@each_type
@pytest.mark.parametrize("patches", [16, 256, 1000, 4096, 10_000])
def test_the_shift_is_that_of_the_pipelines(kind: str, patches: int) -> None:
    settings = {"base_shift": 0.4, "max_shift": 1.3, "base_image_seq_len": 200, "max_image_seq_len": 5000}
    config = {**DYNAMIC, **settings, "time_shift_type": kind}
    found = DynamicShift.from_config(config)
    assert found is not None and found.to_config() == config
    mu = calculate_shift(patches, 200, 5000, 0.4, 1.3)
    assert found.mu(patches) == pytest.approx(mu, rel=1e-12)
    t, factor = torch.tensor([0.001, 0.3, 0.9], dtype=torch.float64), found.factor(patches)
    theirs = FlowMatchEulerDiscreteScheduler(**config).time_shift(mu, 1.0, t)
    torch.testing.assert_close(factor * t / (1 + (factor - 1) * t), theirs, rtol=1e-12, atol=0)


@each_type
@pytest.mark.parametrize("even", [False, True])
@pytest.mark.parametrize("steps", [1, 4, 28])
def test_its_own_levels_are_the_scheduler_s(kind: str, even: bool, steps: int) -> None:
    """FluxPipeline gives the scheduler evenly spaced times, StableDiffusion3Pipeline their number."""
    theirs = FlowMatchEulerDiscreteScheduler(**DYNAMIC, shift=3.0, time_shift_type=kind)
    mu = calculate_shift(1024)
    if even:
        theirs.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    else:
        theirs.set_timesteps(steps, mu=mu)
    found = FlowSchedule.from_config(theirs.config).within(FlowPipeline(1024, even=even))
    torch.testing.assert_close(times(found.own_levels(steps)), theirs.sigmas.double(), rtol=0, atol=2e-7)


@each_type
def test_the_training_levels_are_shifted_as_far(kind: str) -> None:
    config = {**DYNAMIC, "shift": 3.0, "time_shift_type": kind}
    schedule = FlowSchedule.from_config(config)
    found = schedule.within(FlowPipeline(4096))
    assert found.factor == pytest.approx(np.exp(1.15) if kind == "exponential" else 1.15)
    assert torch.equal(found.sigmas, FlowSchedule(found.factor).sigmas)
    assert torch.equal(schedule.sigmas, FlowSchedule(1.0).sigmas)  # outside a pipeline, as in diffusers
    assert not torch.equal(found.facts, schedule.within(FlowPipeline(256)).facts)  # samples depend on it


def test_a_network_says_its_patches() -> None:
    schedule = FlowSchedule.from_config(DYNAMIC)
    model = Denoiser(teachers.flux(), schedule, "flow_prediction", kind=FLUX)
    assert isinstance(model.schedule, FlowSchedule)
    assert model.schedule.pipeline == FlowPipeline(16, even=True, steps=4) and model.schedule.own_steps == 4
    guided = Denoiser(teachers.flux(guidance_embeds=True), schedule, "flow_prediction", kind=FLUX)
    assert guided.schedule.own_steps == 28
    dit = Denoiser(teachers.dit(), schedule, "flow_prediction", kind=DIT)
    assert isinstance(dit.schedule, FlowSchedule)
    assert dit.schedule.pipeline == FlowPipeline(16) and dit.schedule.own_steps == 50
    assert dit.read_as("flow_prediction", FlowSchedule.from_config(DYNAMIC)).schedule == dit.schedule
    assert Denoiser(teachers.dit(), BetaSchedule.linear(), kind=DIT).schedule.steps == 1000


def test_a_network_without_patches_is_refused() -> None:
    with pytest.raises(GsdError, match="no patches to shift by") as caught:
        Denoiser(teachers.unet(teachers.TINY), FlowSchedule.from_config(DYNAMIC), "flow_prediction")
    assert caught.value.code == 3 and "use_dynamic_shifting" in str(caught.value.hint)


@pytest.mark.parametrize(
    "changes",
    [
        {"time_shift_type": "cubic"}, {"base_shift": "half"}, {"max_shift": 1e9}, {"base_image_seq_len": 0},
        {"base_image_seq_len": 4096}, {"max_image_seq_len": float("nan")}, {"base_shift": [0.5]},
    ],
    ids=str,
)  # fmt: skip
def test_damaged_shifts_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(GsdError) as caught:
        FlowSchedule.from_config({**DYNAMIC, **changes})
    assert caught.value.code == 3 and caught.value.hint


def test_a_linear_shift_must_be_positive() -> None:
    shift = DynamicShift(base_shift=-1.0, kind="linear")
    with pytest.raises(GsdError, match="linear dynamic shift of -1"):
        shift.factor(256)
    assert DynamicShift(base_shift=-1.0).factor(256) == pytest.approx(np.exp(-1.0))


def test_empty_settings_have_the_scheduler_s_defaults() -> None:
    config = {**DYNAMIC, "base_shift": None, "max_shift": None, "time_shift_type": None}
    assert DynamicShift.from_config(config) == DynamicShift()
    assert DynamicShift.from_config({"use_dynamic_shifting": None}) is None
