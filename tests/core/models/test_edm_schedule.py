"""EDM: closed forms, and diffusers' own schedulers on the same network and noise."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import EDMDPMSolverMultistepScheduler, EDMEulerScheduler
from torch import Tensor, nn

from gsd_cli.base.errors import GsdError
from gsd_cli.compute.random import latents
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.diffusers_folder import save_denoiser
from gsd_cli.core.models.edm_config import HEUN, SOLVER_KEY
from gsd_cli.core.models.edm_schedule import DPM_SOLVER, EdmSchedule
from gsd_cli.core.models.fingerprint import teacher_fingerprint
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.core.sampling.ode import dpm_solver, heun
from gsd_cli.core.sampling.samplers import parse_sampler
from tests.support import teachers
from tests.support.plain import PLAIN, amplifications

SEEDS = [3, 8]
OTHERS = [{}, {"sigma_data": 1.0, "prediction_type": "v_prediction"}, {"final_sigmas_type": "sigma_min", "rho": 5.0},
          {"sigma_schedule": "exponential", "sigma_max": 40.0}]  # fmt: skip


class GaussianEdm(nn.Module):
    """The best F(c_in x, ln(sigma) / 4) for y ~ N(0, spread^2), with data of deviation `sigma_data`: a closed form."""

    def __init__(self, spread: float, sigma_data: float, sign: float):
        super().__init__()
        self.spread = nn.Parameter(torch.tensor(spread))
        self.sigma_data, self.sign = sigma_data, sign

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        s = (4 * time).exp().reshape(-1, 1, 1, 1)
        total = (s**2 + self.sigma_data**2).sqrt()
        noisy = x * total
        best = noisy * self.spread**2 / (self.spread**2 + s**2)
        return self.sign * (best - noisy * self.sigma_data**2 / total**2) * total / (s * self.sigma_data)


def model(prediction: str = "epsilon", spread: float = 0.3, **settings: Any) -> Denoiser:
    schedule = EdmSchedule(**settings)
    sign = 1 if prediction == "epsilon" else -1
    return Denoiser(GaussianEdm(spread, schedule.sigma_data, sign), schedule, prediction, kind=PLAIN)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("sigma_data", [0.5, 1.0])
@pytest.mark.parametrize("sigma", [0.002, 0.1, 1.0, 2.5, 80.0])
def test_the_clean_estimate_is_the_gaussian_one(prediction: str, sigma_data: float, sigma: float) -> None:
    x = sigma * torch.randn(4, 1, 3, 3)
    expected = 0.09 / (0.09 + sigma**2) * x
    found = model(prediction, sigma_data=sigma_data)(x, per_image(sigma, x))
    torch.testing.assert_close(found, expected, atol=1e-6 * max(1, sigma), rtol=1e-4)


@pytest.mark.parametrize("kind", [EDMEulerScheduler, EDMDPMSolverMultistepScheduler])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_precondition_is_the_scheduler_s(kind: Any, prediction: str) -> None:
    scheduler = kind(prediction_type=prediction, sigma_data=0.7)
    ours = EdmSchedule.from_config(scheduler.config)
    x, raw, sigma = torch.randn(3, 1, 2, 2), torch.randn(3, 1, 2, 2), torch.tensor([0.05, 1.0, 30.0])
    column = sigma.reshape(-1, 1, 1, 1)
    output = ours.outputs[prediction]
    torch.testing.assert_close(output.input(x, sigma), scheduler.precondition_inputs(x, column))
    torch.testing.assert_close(output.clean(raw, x, column), scheduler.precondition_outputs(x, raw, column))
    torch.testing.assert_close(ours.timestep(sigma), scheduler.precondition_noise(sigma))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_amplification_is_the_change_of_the_clean_estimate(prediction: str) -> None:
    change, amplification = amplifications(model(prediction))
    torch.testing.assert_close(change if prediction == "epsilon" else -change, amplification)


@pytest.mark.parametrize("config", OTHERS)
def test_levels_are_the_scheduler_s_training_levels(config: dict) -> None:
    theirs = EDMDPMSolverMultistepScheduler(**config)
    sigmas = EdmSchedule.from_config(theirs.config).sigmas
    torch.testing.assert_close(sigmas.float(), theirs.sigmas[:-1].flip(0), atol=1e-6, rtol=1e-4)
    assert (sigmas.diff() > 0).all()
    schedule = EdmSchedule.from_config(theirs.config)
    index = torch.tensor([0.0, 10.5, 500.0, 990.0])
    torch.testing.assert_close(schedule.index(schedule.sigma(index)), index, atol=1e-2, rtol=1e-5)


@pytest.mark.parametrize("solver", [heun, dpm_solver])
def test_solvers_bring_noise_to_the_data_s_spread(solver) -> None:
    noise = torch.randn(4000, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    assert solver(model(), noise, 40).std().item() == pytest.approx(0.3, rel=0.03)


SOLVERS = [{"solver_order": 1}, {"solver_order": 3, "lower_order_final": False}, {"solver_type": "heun"},
           {"thresholding": True, "sample_max_value": 1.5}, {"euler_at_final": True}]  # fmt: skip


@pytest.mark.parametrize(
    "scheduler",
    [EDMEulerScheduler(**one) for one in OTHERS]
    + [EDMDPMSolverMultistepScheduler(**one) for one in (*OTHERS, *SOLVERS)],
    ids=lambda one: type(one).__name__[3:9],
)
@torch.no_grad()
def test_sampling_is_the_pipelines_own(scheduler: Any) -> None:
    net = teachers.unet(teachers.TINY)
    noise = latents(SEEDS, (1, 8, 8))
    scheduler.set_timesteps(12)
    x = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        x = scheduler.step(net(scheduler.scale_model_input(x, t), t).sample, t, x).prev_sample
    prediction = scheduler.config.prediction_type
    ours = Denoiser(
        net, EdmSchedule.from_config({**scheduler.config, "_class_name": type(scheduler).__name__}), prediction
    )
    torch.testing.assert_close(parse_sampler("msa-12")(ours, noise, SEEDS), x, atol=1e-4, rtol=0)


@torch.no_grad()
def test_diffusers_dpm_solver_is_ours_where_both_know_the_levels() -> None:
    """Two implementations of DPM-Solver++(2M)."""
    ours = Denoiser(teachers.unet(teachers.TINY), EdmSchedule(solver=DPM_SOLVER))
    noise = latents(SEEDS, (1, 8, 8))
    torch.testing.assert_close(
        parse_sampler("msa-20")(ours, noise, SEEDS), dpm_solver(ours, noise, 20), atol=1e-4, rtol=0
    )


@torch.no_grad()
def test_heun_is_karras_s_algorithm() -> None:
    """msa of a teacher from an EDM file: algorithm 1 of the paper, written out for float64."""
    ours = model(solver=HEUN).double()
    assert parse_sampler("msa").steps_for(ours) == 18 and parse_sampler("msa").calls(ours) == 35
    noise = latents(SEEDS, (1, 8, 8)).double()
    rho, steps = 7, 18
    place = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    levels = (80 ** (1 / rho) + place * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
    levels = torch.cat([levels, torch.zeros(1)])
    x = levels[0] * noise
    for t, after in pairwise(levels):
        d = (x - ours(x, per_image(float(t), x))) / t
        there = x + (after - t) * d
        if after > 0:
            d = (d + (there - ours(there, per_image(float(after), there))) / after) / 2
        x = x + (after - t) * d
    torch.testing.assert_close(parse_sampler("msa")(ours, noise, SEEDS), x, atol=1e-5, rtol=0)


def test_own_samplers_have_names_of_their_own_in_the_cache() -> None:
    names = {parse_sampler("msa-9").cache_name(model(solver=one)) for one in (HEUN, DPM_SOLVER, "EDMEulerScheduler")}
    assert len(names) == 3


@pytest.mark.parametrize(("scheduler", "steps"), [
    (EDMEulerScheduler(sigma_data=0.7, prediction_type="v_prediction"), 50),
    (EDMDPMSolverMultistepScheduler(solver_order=3, sigma_max=70.0), 50),
], ids=["euler", "dpm"])  # fmt: skip
def test_a_folder_is_read_and_written_back(tmp_path: Path, scheduler: Any, steps: int) -> None:
    folder = teachers.with_scheduler(tmp_path / "edm", teachers.unet(teachers.TINY), scheduler)
    teacher = load_teacher(str(folder))
    assert teacher.denoiser.prediction == scheduler.config.prediction_type and teacher.reading is None
    assert parse_sampler("msa").calls(teacher.denoiser) == steps
    save_denoiser(teacher.denoiser, tmp_path / "again", half=False)
    again = load_teacher(str(tmp_path / "again"))
    x = 2.5 * torch.randn(2, 1, 8, 8)
    assert torch.equal(again.denoiser(x, per_image(2.5, x)), teacher.denoiser(x, per_image(2.5, x)))
    assert teacher_fingerprint(again) == teacher_fingerprint(teacher)
    assert again.denoiser.schedule == teacher.denoiser.schedule
    back = type(scheduler).from_pretrained(tmp_path / "again")
    assert {key: back.config[key] for key in scheduler.config if not key.startswith("_")} == {
        key: value for key, value in scheduler.config.items() if not key.startswith("_")
    }


def test_sigma_data_is_part_of_what_identifies_a_teacher(tmp_path: Path) -> None:
    marks = set()
    for k, spread in enumerate((0.5, 1.0)):
        scheduler = EDMEulerScheduler(sigma_data=spread)
        folder = teachers.with_scheduler(tmp_path / str(k), teachers.unet(teachers.TINY), scheduler)
        marks.add(teacher_fingerprint(load_teacher(str(folder))))
    assert len(marks) == 2


def test_what_a_config_leaves_out_is_the_scheduler_s_default(tmp_path: Path) -> None:
    folder = teachers.with_scheduler(tmp_path / "edm", teachers.unet(teachers.TINY), EDMEulerScheduler())
    (folder / "scheduler_config.json").write_text(json.dumps({"sigma_min": 0.002, "sigma_max": 80}))
    assert load_teacher(str(folder)).denoiser.schedule == EdmSchedule()
    (folder / "scheduler_config.json").unlink()
    teacher = load_teacher(str(folder), assume="edm")
    assert (teacher.reading, teacher.denoiser.schedule) == ("edm", EdmSchedule())


def test_heun_is_kept_in_the_scheduler_s_config() -> None:
    config = EdmSchedule(solver=HEUN).to_scheduler("epsilon", None).config  # type: ignore[arg-type]
    assert config[SOLVER_KEY] == HEUN
    assert EdmSchedule.from_config({**config, "_class_name": "EDMEulerScheduler"}).solver == HEUN


@pytest.mark.parametrize("change", [
    {"sigma_min": 0}, {"sigma_min": 90}, {"sigma_max": "high"}, {"sigma_max": float("nan")}, {"sigma_data": 0},
    {"sigma_data": None}, {"rho": 0}, {"rho": float("inf")}, {"num_train_timesteps": 1}, {"sigma_schedule": "cosine"},
    {"sigma_schedule": ["karras"]}, {"solver_order": 10**9}, {"solver_type": []}, {"thresholding": "yes"},
    {"final_sigmas_type": "one"}, {"algorithm_type": "sde-dpmsolver++"},
])  # fmt: skip
def test_what_is_no_edm_is_an_input_error(change: dict) -> None:
    with pytest.raises(GsdError) as caught:
        EdmSchedule.from_config({"_class_name": "EDMDPMSolverMultistepScheduler", **change})
    assert caught.value.code == 3


def test_another_prediction_is_refused() -> None:
    with pytest.raises(GsdError, match="unsupported prediction type"):
        model("flow_prediction")
