"""Names in a run, in a model's folder and next to a data set."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gsd_cli.catalogue.run_layout import (
    FEATURES_SUFFIXES,
    TEACHER_SUFFIX,
    checkpoint_name,
    checkpoints,
    features_name,
    image_to_show,
    next_to_data,
    next_to_teacher,
    statistics_path,
)
from gsd_cli.options import PrepareOptions


def test_the_image_shown_is_the_first_written_or_a_runs_last_grid(tmp_path: Path) -> None:
    samples = tmp_path / "run" / "samples"
    samples.mkdir(parents=True)
    (tmp_path / "run" / "generator").mkdir()
    for name in ("step-0000000.png", "step-0000012.png"):
        (samples / name).touch()
    assert image_to_show([str(tmp_path / "run" / "generator")]) == samples / "step-0000012.png"
    (tmp_path / "x.png").touch()
    assert image_to_show(["x.npz", str(tmp_path / "x.png")]) == tmp_path / "x.png"
    assert image_to_show(["x.npz"]) is None


def test_checkpoints_sort_by_step(tmp_path: Path) -> None:
    for step in (1000, 20, 100_000):
        (tmp_path / checkpoint_name(step)).mkdir()
    assert [path.name for path in checkpoints(tmp_path)] == [checkpoint_name(n) for n in (20, 1000, 100_000)]


def test_names_next_to_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path / "images")
    assert next_to_data(Path("a/toy.zip"), TEACHER_SUFFIX) == Path("a/toy-teacher")
    assert statistics_path(tmp_path / "images", "inception") == tmp_path / "images.inception.npz"
    assert next_to_data(Path(), ".npz") == Path(os.path.abspath("../images.npz"))


def test_what_was_prepared_is_found_from_the_teacher(tmp_path: Path) -> None:
    teacher = next_to_data(tmp_path / "toy.zip", TEACHER_SUFFIX)
    teacher.mkdir()
    assert next_to_teacher(teacher, ".zip") is None
    (tmp_path / "toy.zip").touch()
    assert next_to_teacher(str(teacher), ".zip") == tmp_path / "toy.zip"
    assert next_to_teacher(tmp_path, ".zip") is None
    assert next_to_teacher("ddpm-fashion", ".zip") is None


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("toy-features", "toy"),
        ("toy-features-2", "toy-2"),
        ("features-toy-2", "toy-2"),
        ("a-features-x", "a-features-x"),
    ],
)
def test_features_are_named_by_their_folder(folder: str, name: str) -> None:
    assert features_name(Path(folder)) == name


def test_every_feature_network_has_a_folder() -> None:
    annotation = PrepareOptions.model_fields["features_net"].annotation
    assert set(FEATURES_SUFFIXES) == set(annotation.__args__)
