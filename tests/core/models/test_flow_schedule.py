"""Flow matching: closed forms, and diffusers' own scheduler on the same network and noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from gsd_cli.base.errors import GsdError
from gsd_cli.compute.random import latents
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.diffusers_folder import save_denoiser
from gsd_cli.core.models.fingerprint import teacher_fingerprint
from gsd_cli.core.models.flow_schedule import FlowSchedule
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.core.sampling.ode import dpm_solver, heun
from gsd_cli.core.sampling.samplers import parse_sampler
from tests.support import teachers
from tests.support.plain import PLAIN, amplifications, gaussian_estimates

SEEDS = [3, 8]


class GaussianVelocity(nn.Module):
    """E[n - y | x_t] for y ~ N(0, spread^2): a closed form."""

    def __init__(self, spread: float):
        super().__init__()
        self.spread = nn.Parameter(torch.tensor(spread))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        t = (time / 1000).reshape(-1, 1, 1, 1)
        variance = ((1 - t) * self.spread) ** 2 + t**2
        return x * (t - (1 - t) * self.spread**2) / variance


def model(spread: float = 0.5, **settings: float) -> Denoiser:
    return Denoiser(GaussianVelocity(spread), FlowSchedule(**settings), "flow_prediction", kind=PLAIN)


@pytest.mark.parametrize("sigma", [1e-3, 0.1, 1.0, 2.5, 40.0, 1e5])
def test_the_clean_estimate_is_the_gaussian_one(sigma: float) -> None:
    found, expected = gaussian_estimates(model(), 0.5, sigma)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_amplification_is_the_change_of_the_clean_estimate() -> None:
    change, amplification = amplifications(model())
    torch.testing.assert_close(-change, amplification)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_levels_are_the_scheduler_s_training_levels(shift: float) -> None:
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift).sigmas.flip(0).double()
    sigmas = FlowSchedule(shift).sigmas
    torch.testing.assert_close(sigmas / (1 + sigmas), theirs, atol=2e-7, rtol=0)
    assert torch.isfinite(sigmas).all() and (sigmas.diff() > 0).all()
    # the time that the network is given is not shifted: 1000 t
    torch.testing.assert_close(FlowSchedule(shift).timestep(torch.tensor([1.0, 3.0])), torch.tensor([500.0, 750.0]))


def test_index_and_sigma_are_inverse() -> None:
    schedule = FlowSchedule(3.0)
    index = torch.tensor([0.0, 10.5, 500.0, 990.0])
    torch.testing.assert_close(schedule.index(schedule.sigma(index)), index, atol=1e-2, rtol=1e-5)


@pytest.mark.parametrize("solver", [heun, dpm_solver])
def test_solvers_bring_noise_to_the_data_s_spread(solver) -> None:
    noise = torch.randn(4000, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    found = solver(model(), noise, 40)
    assert found.std().item() == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize("config", [{}, {"shift": 3.0}, {"shift_terminal": 0.1}, {"use_karras_sigmas": True}])
@pytest.mark.parametrize("name", ["msa-12", "ddim-12"])
@torch.no_grad()
def test_sampling_is_the_pipelines_own(name: str, config: dict) -> None:
    scheduler, net = FlowMatchEulerDiscreteScheduler(**config), teachers.unet(teachers.TINY)
    noise = latents(SEEDS, (1, 8, 8))
    scheduler.set_timesteps(12)
    x = noise
    for t in scheduler.timesteps:
        x = scheduler.step(net(x, t).sample, t, x).prev_sample
    ours = Denoiser(net, FlowSchedule.from_config(scheduler.config), "flow_prediction")
    torch.testing.assert_close(parse_sampler(name)(ours, noise, SEEDS), x, atol=1e-4, rtol=0)


def test_msa_takes_fifty_steps() -> None:
    assert parse_sampler("msa").calls(model()) == 50


@pytest.mark.parametrize("scheduler", [
    {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
    {"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "flow_prediction", "use_flow_sigmas": True,
     "flow_shift": 3.0, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},  # as SANA
    {"shift": 3.0, "num_train_timesteps": 1000},
], ids=["flow", "sana", "unnamed"])  # fmt: skip
def test_a_folder_is_read_and_written_back(tmp_path: Path, scheduler: dict) -> None:
    folder = teachers.with_scheduler(tmp_path / "flow", teachers.unet(teachers.TINY), FlowMatchEulerDiscreteScheduler())
    (folder / "scheduler_config.json").write_text(json.dumps(scheduler))
    teacher = load_teacher(str(folder))
    assert teacher.denoiser.prediction == "flow_prediction" and teacher.reading is None
    save_denoiser(teacher.denoiser, tmp_path / "again", half=False)
    again = load_teacher(str(tmp_path / "again"))
    x = 2.5 * torch.randn(2, 1, 8, 8)
    assert torch.equal(again.denoiser(x, per_image(2.5, x)), teacher.denoiser(x, per_image(2.5, x)))
    assert teacher_fingerprint(again) == teacher_fingerprint(teacher)
    written = json.loads((tmp_path / "again" / "scheduler_config.json").read_text())
    stated = scheduler.get("_class_name", "FlowMatchEulerDiscreteScheduler")
    assert written["_class_name"] == stated and written.get("shift", written.get("flow_shift")) == 3.0


@pytest.mark.parametrize("change", [
    {"shift": "wide"}, {"shift": 0}, {"num_train_timesteps": 1}, {"stochastic_sampling": True}, {"invert_sigmas": True},
])  # fmt: skip
def test_what_is_no_flow_is_an_input_error(change: dict) -> None:
    with pytest.raises(GsdError) as caught:
        FlowSchedule.from_config({"_class_name": "FlowMatchEulerDiscreteScheduler", **change})
    assert caught.value.code == 3


SANA: dict[str, Any] = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 4.0}


@pytest.mark.parametrize(
    "settings", [{}, {"solver_order": 3}, {"solver_type": "heun"}, {"euler_at_final": True}], ids=str
)
@pytest.mark.parametrize("steps", [3, 20])
@torch.no_grad()
def test_a_dpm_solver_s_images_are_its_own(settings: dict[str, Any], steps: int) -> None:
    """The network is given the time that the scheduler rounds, as in SanaPipeline."""
    scheduler, net = DPMSolverMultistepScheduler(**SANA, **settings), teachers.unet(teachers.TINY)
    noise = latents(SEEDS, (1, 8, 8))
    scheduler.set_timesteps(steps)
    x = noise
    for t in scheduler.timesteps:
        x = scheduler.step(net(x, t).sample, t, x).prev_sample
    config = {"_class_name": type(scheduler).__name__, **scheduler.config}
    ours = Denoiser(net, FlowSchedule.from_config(config), "flow_prediction")
    assert parse_sampler("msa").calls(ours) == 20
    torch.testing.assert_close(parse_sampler(f"msa-{steps}")(ours, noise, SEEDS), x, atol=1e-4, rtol=0)
    assert isinstance(ours.schedule, FlowSchedule)
    found = torch.tensor(ours.schedule.own_levels(steps), dtype=torch.float64)
    torch.testing.assert_close(found / (1 + found), scheduler.sigmas.double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("change", [
    {"algorithm_type": "sde-dpmsolver++"}, {"algorithm_type": "dpmsolver"}, {"final_sigmas_type": "sigma_min"},
    {"use_karras_sigmas": True}, {"use_lu_lambdas": True}, {"use_dynamic_shifting": True}, {"solver_order": 7},
    {"flow_shift": -1},
])  # fmt: skip
def test_solvers_that_gsd_does_not_have_are_refused(change: dict) -> None:
    with pytest.raises(GsdError) as caught:
        FlowSchedule.from_config({"_class_name": "DPMSolverMultistepScheduler", **SANA, **change})
    assert caught.value.code == 3 and caught.value.hint


def test_another_prediction_is_refused() -> None:
    with pytest.raises(GsdError, match="unsupported prediction type"):
        Denoiser(GaussianVelocity(0.5), FlowSchedule(), "epsilon", kind=PLAIN)
