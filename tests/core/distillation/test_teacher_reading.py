"""A teacher whose folder says little is read as real images tell; one that says everything is kept, and checked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from gsd_cli.base.errors import GsdError
from gsd_cli.base.session import Session
from gsd_cli.base.storage import ASSETS
from gsd_cli.core.distillation import teacher_reading
from gsd_cli.core.distillation.inputs import ImageChoice
from gsd_cli.core.distillation.open_data import OpenData
from gsd_cli.core.distillation.teacher_reading import settle_reading
from gsd_cli.core.models.teacher import load_teacher

IMAGES = ASSETS / "fashion-mnist.zip"
CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the bundled teacher; fewer images than a command takes tell its readings apart."""
    monkeypatch.setattr(teacher_reading, "TRIED_ON", 4)
    monkeypatch.setattr(teacher_reading, "CHECKED_ON", 4)
    return Path(shutil.copytree(ASSETS / "ddpm-fashion", tmp_path / "ddpm"))


def change(folder: Path, **changes: object) -> None:
    path = folder / "scheduler_config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def given() -> OpenData:
    return OpenData(ImageChoice("given", IMAGES, IMAGES))


def test_real_images_tell_what_a_network_predicts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(folder, prediction_type=None, beta_schedule=None)
    teacher = load_teacher(str(folder), undecided=True)
    assert len(teacher.config.readings) == 9
    settled = settle_reading(teacher, given(), CPU, Session())
    assert settled.reading == "eps,linear" and settled.denoiser.prediction == "epsilon"
    assert torch.equal(settled.denoiser.schedule.alphas_bar, load_teacher("ddpm-fashion").denoiser.schedule.alphas_bar)
    assert "denoises best read as eps,linear" in capsys.readouterr().err


@pytest.mark.parametrize("origin", ["none", "teacher"])
def test_without_real_images_nothing_is_settled(origin: str, folder: Path) -> None:
    change(folder, prediction_type=None)
    teacher = load_teacher(str(folder), undecided=True)
    with pytest.raises(GsdError, match="does not say what its network predicts"):
        settle_reading(teacher, OpenData(ImageChoice(origin, None, None)), CPU, Session())


def test_what_a_folder_says_is_kept_and_checked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for changes, warned in (({}, False), ({"prediction_type": "v_prediction"}, True)):
        change(folder, **changes)
        teacher = load_teacher(str(folder), undecided=True)
        assert settle_reading(teacher, given(), CPU, Session()) is teacher
        assert ("better read as eps,linear" in capsys.readouterr().err.replace("\n", " ")) == warned
