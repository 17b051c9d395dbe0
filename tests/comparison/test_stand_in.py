"""gsd bench where Inception cannot be had: features of the data that is there, by their own name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.shell import Shell

BENCH = ("bench", "--compare", "one-step-teacher", "-N", "16", "--batch-size", "8", "--offline", "--json")


@pytest.fixture(scope="module")
def own(workshop: Shell, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A model of one's own data, whose card names no features: own.zip and own-teacher/, and a second teacher."""
    shell = Shell(tmp_path_factory.mktemp("own"))
    shutil.copy(workshop.folder / "toy.zip", shell.folder / "own.zip")
    shutil.copytree(workshop.folder / "toy-teacher", shell.folder / "own-teacher")
    shutil.copytree(workshop.folder / "run" / "generator", shell.folder / "model")
    name_teacher(shell.folder / "model", "own-teacher")
    return shell


def name_teacher(model: Path, teacher: str) -> None:
    card = json.loads((model / "gsd.json").read_text())
    (model / "gsd.json").write_text(json.dumps(card | {"features": None, "teacher": teacher}))


def test_the_teachers_own_features_stand_in_for_inception(own: Shell) -> None:
    done = own.gsd(*BENCH, "--model", "model", "--metrics", "fd,pr,kid,grain")
    said = done.stderr.decode()
    assert done.returncode == 0, said
    found = json.loads(done.stdout)["metrics"]
    assert found["figure"] == "FD-teacher" and found["model"] == "model"
    row = found["rows"]["model"]
    assert row["fd"] > 0 and {"kid", "precision", "recall"} <= set(row)
    assert "own.zip" in found["protocol"]["FD-teacher"] and found["real"]["source"] == "own.zip"
    assert said.count("Inception is not in the cache") == 1 and "not independent of the generator" in said
    # their file name would not say which teacher measured them
    assert sorted(path.name for path in own.folder.glob("*.npz")) == []


def test_asking_for_inception_is_an_error_without_it(own: Shell) -> None:
    done = own.gsd(*BENCH, "--model", "model", "--metrics", "fd", "--features", "inception")
    assert done.returncode == 4
    assert "Inception" in done.stderr.decode()
    done = own.gsd(*BENCH, "--model", "model", "--metrics", "fd", "--stats", "cifar10-train")
    assert done.returncode == 4


def test_features_fitted_on_the_data_are_preferred(own: Shell, workshop: Shell) -> None:
    shutil.copytree(workshop.folder / "toy-features", own.folder / "own-features")
    try:
        done = own.gsd(*BENCH, "--model", "model", "--metrics", "fd")
    finally:
        shutil.rmtree(own.folder / "own-features")
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["metrics"]["figure"] == "FD-own"


def test_without_real_images_nothing_can_stand_in(own: Shell) -> None:
    moved = own.folder / "own.zip"
    moved.rename(own.folder / "elsewhere.zip")
    try:
        done = own.gsd(*BENCH, "--model", "model", "--metrics", "fd")
        again = own.gsd(*BENCH, "--model", "model", "--metrics", "fd", "--stats", "elsewhere.zip")
    finally:
        (own.folder / "elsewhere.zip").rename(moved)
    assert done.returncode == 4
    assert again.returncode == 0, again.stderr.decode()
    assert json.loads(again.stdout)["metrics"]["figure"] == "FD-teacher"


def test_statistics_of_one_teacher_are_not_those_of_another(own: Shell) -> None:
    """Both measure `own.zip` in features called `teacher`."""
    other = own.folder / "b-teacher"
    shutil.copytree(own.folder / "own-teacher", other)
    weights = next(other.rglob("*.safetensors"))
    torch.manual_seed(0)
    save_file({name: value + 0.05 * torch.randn_like(value) for name, value in load_file(weights).items()}, weights)
    shutil.copytree(own.folder / "model", own.folder / "b")
    name_teacher(own.folder / "b", "b-teacher")
    kept = []
    for model in ("model", "b", "b"):
        done = own.gsd(*BENCH, "--model", model, "--metrics", "fd", "--stats", "own.zip")
        assert done.returncode == 0, done.stderr.decode()
        kept.append(len(list((own.folder / "home" / "cache" / "statistics").glob("*.teacher.npz"))))
    assert kept == [kept[0], kept[0] + 1, kept[0] + 1]
