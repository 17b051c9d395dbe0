"""Closed forms of every known reading are recognised on images; folders that say little are never read in silence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gsd_cli.base.errors import GsdError, UsageError
from gsd_cli.base.storage import ASSETS
from gsd_cli.catalogue.readings import SCHEDULES, Reading, assumed, fitting_readings, normalize
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.condition import UNCONDITIONAL
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.diffusers_folder import NETWORK_KINDS
from gsd_cli.core.models.reading_check import measure_readings
from gsd_cli.core.models.schedules import read_schedule
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.core.models.teacher_config import CHECKS, read_teacher_config
from gsd_cli.data.dataset import ImageArchive
from tests.support.plain import PLAIN

EVERY = fitting_readings({})
SPREAD, MEAN = 0.2, -0.3


class Exact(nn.Module):
    """The best network of one reading for images whose pixels are independent Gaussians: a closed form."""

    def __init__(self, reading: Reading):
        super().__init__()
        self.prediction, self.schedule = reading.prediction, read_schedule(reading.schedule)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        flow, edm = self.prediction == "flow_prediction", self.schedule.family == "edm"
        s = (t / (1000 - t) if flow else (4 * t).exp() if edm else self.schedule.sigma(t)).reshape(-1, 1, 1, 1)
        noisy = x * (1 + s if flow else ((0.25 if edm else 1) + s**2).sqrt())
        clean = MEAN + SPREAD**2 / (SPREAD**2 + s**2) * (noisy - MEAN)
        if edm:
            return (clean - noisy * 0.25 / (0.25 + s**2)) * (0.25 + s**2).sqrt() / (0.5 * s)
        if self.prediction == "sample":
            return clean
        eps = (noisy - clean) / s
        if flow:
            return eps - clean
        return eps if self.prediction == "epsilon" else (eps - s * clean) / (1 + s**2).sqrt()


@pytest.mark.parametrize("reading", EVERY, ids=lambda one: one.name)
def test_the_right_reading_has_the_smallest_error(reading: Reading) -> None:
    images = MEAN + SPREAD * torch.randn(32, 1, 8, 8)
    found = measure_readings(Denoiser(Exact(reading), BetaSchedule.linear(), kind=PLAIN), EVERY, images, UNCONDITIONAL)
    assert found.best[0].name == reading.name
    assert found.errors[1][1] > found.best[1]
    assert found.fits


def test_a_network_without_effect_fits_no_reading() -> None:
    class Zero(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return torch.zeros_like(x)

    model = Denoiser(Zero(), BetaSchedule.linear(), kind=PLAIN)
    found = measure_readings(model, EVERY, torch.rand(8, 1, 8, 8), UNCONDITIONAL)
    assert not found.fits and found.best[1] == pytest.approx(found.idle)


def test_the_bundled_teacher_is_recognised_on_the_bundled_images() -> None:
    archive = ImageArchive(ASSETS / "fashion-mnist.zip")
    images = archive.batch(torch.linspace(0, len(archive) - 1, 8).long())
    known = tuple(one for one in EVERY if one.name.partition(",")[2] in ("linear", "cosine", ""))
    found = measure_readings(load_teacher("ddpm-fashion").denoiser, known, images, UNCONDITIONAL)
    assert found.best[0].name == "eps,linear"
    assert found.errors[1][1] > 1.5 * found.best[1]


# -- what a folder says ---------------------------------------------------------------------------

WHOLE = {"prediction_type": "v_prediction", "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (WHOLE, ["v,linear"]),
        ({**WHOLE, "beta_start": 0.001, "num_train_timesteps": 100}, ["v,linear"]),
        ({**WHOLE, "trained_betas": [0.1, 0.2]}, ["v,trained_betas"]),
        ({**WHOLE, "prediction_type": None}, ["eps,linear", "v,linear", "x0,linear"]),
        ({key: WHOLE[key] for key in WHOLE if key != "prediction_type"} | {"_diffusers_version": "0.1.1"},
         ["eps,linear"]),  # as google/ddpm-cifar10-32
        ({key: WHOLE[key] for key in WHOLE if key != "prediction_type"} | {"_diffusers_version": "0.33.0"},
         ["eps,linear", "v,linear", "x0,linear"]),
        ({"predict_epsilon": False, "beta_schedule": "squaredcos_cap_v2"}, ["x0,cosine"]),
        ({"prediction_type": "epsilon", "beta_schedule": "linear"}, ["eps,linear"]),
        ({"prediction_type": "epsilon", "beta_schedule": "scaled_linear"}, ["eps,scaled_linear", "eps,ldm"]),
        ({"prediction_type": "epsilon", "beta_start": 0.0015, "beta_end": 0.0195},
         ["eps,linear", "eps,scaled_linear", "eps,sigmoid"]),
        ({"prediction_type": "sample"}, [f"x0,{name}" for name in SCHEDULES]),
    ],
)  # fmt: skip
def test_what_fits_a_scheduler_config(config: dict[str, Any], names: list[str]) -> None:
    found = fitting_readings(config)
    assert [one.name for one in found] == names
    for one in found:  # what is stated stays
        assert {key: one.schedule[key] for key, value in config.items() if value is not None} == {
            key: value for key, value in config.items() if value is not None
        }


@pytest.mark.parametrize(
    ("words", "name"),
    [("eps,linear", "eps,linear"), ("epsilon, linear", "eps,linear"), ("cosine,v_prediction", "v,cosine"),
     ("x0", "x0"), ("squaredcos_cap_v2", "cosine"), ("edm", "edm"), ("flow", "flow"), ("score-sde", "score-sde")],
)  # fmt: skip
def test_assumptions_have_one_spelling(words: str, name: str) -> None:
    assert normalize(words) == name
    assert assumed(EVERY + fitting_readings({}, takes_levels=True), name)


@pytest.mark.parametrize(
    "words", ["", "linear,cosine", "eps,v", "eps,linaer", "linear,eps,1000", "edm,linear", "flow,edm"]
)
def test_nonsense_is_no_assumption(words: str) -> None:
    with pytest.raises(ValueError, match="eps"):
        normalize(words)


@pytest.fixture
def folder(toy_teacher_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_teacher_folder, tmp_path / "copy"))


def test_an_assumption_fills_what_is_missing_and_contradicts_nothing(folder: Path) -> None:
    assert read_teacher_config(folder, "eps,linear").require_known().name == "eps,linear"
    with pytest.raises(UsageError, match="says something else"):
        read_teacher_config(folder, "v,linear")
    (folder / "scheduler_config.json").unlink()
    with pytest.raises(GsdError, match=r"which noise schedule .* and what its network predicts") as caught:
        load_teacher(str(folder))
    assert caught.value.code == 3
    assert "--assume" in str(caught.value.hint) and "--data" in str(caught.value.hint)
    with pytest.raises(GsdError, match="does not say which noise schedule"):
        load_teacher(str(folder), assume="v")
    teacher = load_teacher(str(folder), assume="v,cosine")
    assert (teacher.reading, teacher.denoiser.prediction) == ("v,cosine", "v_prediction")
    wanted = BetaSchedule.from_config(SCHEDULES["cosine"]).alphas_bar
    assert torch.equal(teacher.denoiser.schedule.alphas_bar, wanted)
    assert teacher.denoiser.clip_sample
    assert any("v,cosine" in line for line in teacher.remarks)


def test_a_half_written_scheduler_config_is_not_completed(folder: Path) -> None:
    path = folder / "scheduler_config.json"
    config = json.loads(path.read_text())
    for gone, silent in (("prediction_type", "what its network predicts"), ("beta_schedule", "which noise schedule")):
        path.write_text(json.dumps({key: value for key, value in config.items() if key != gone}))
        with pytest.raises(GsdError, match=silent) as caught:
            load_teacher(str(folder))
        assert caught.value.code == 3
    assert load_teacher(str(folder), assume="linear").denoiser.prediction == "epsilon"


def test_every_kind_of_network_has_a_check_of_its_config() -> None:
    assert set(CHECKS) == set(NETWORK_KINDS)
    assert {name: kind.diffusers_class for name, kind in NETWORK_KINDS.items()} == {
        name: diffusers_class for name, (diffusers_class, _) in CHECKS.items()
    }
