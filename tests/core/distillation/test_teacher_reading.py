"""A teacher whose folder says little is read as real images tell; one that says everything is kept, and checked."""

from __future__ import annotations

import json
import re
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
from gsd_cli.core.distillation.teacher_reading import add_size, settle_reading
from gsd_cli.core.models.condition import UNCONDITIONAL
from gsd_cli.core.models.reading_check import measure_readings
from gsd_cli.core.models.teacher import load_teacher
from tests.support import teachers

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


def test_a_file_is_read_in_every_way_that_fits(folder: Path, tmp_path: Path) -> None:
    """The readings of a file may be of several networks. None of random weights denoises images."""
    file = str(teachers.guided_file(tmp_path / "x.pt", out=1, widths=(32,), attends=()))
    data = given()
    assume = add_size(file, "heads=16", data)
    assert assume == "heads=16,size=32" and add_size(file, "size=64", data) == "size=64"
    assert add_size(str(folder), None, data) is None
    teacher = load_teacher(file, assume=assume, undecided=True)
    names = [one.name for one in teacher.config.readings]
    assert len(names) == 8 and {name.rpartition("=")[2] for name in names} == {"split", "joint"}
    images = data.shown.batch(torch.linspace(0, len(data.shown) - 1, 4).round().long())
    alone = {}
    for name in names:
        one = load_teacher(file, assume=name)
        alone[name] = measure_readings(one.denoiser, one.config.readings, images, UNCONDITIONAL).best[1]
    best = min(alone, key=alone.__getitem__)
    with pytest.raises(GsdError, match=re.escape(f"the best is {best}, with an error of {alone[best]:.3g}")) as caught:
        settle_reading(teacher, data, CPU, Session())
    assert caught.value.code == 3
