"""Feature networks of every architecture: shapes, files, training."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.core.models.classifier import load_features, save_features
from gsd_cli.core.models.feature_nets import ARCHITECTURES, FeatureNet
from gsd_cli.core.training.fit_features import RECIPES, FeatureFit, erase, shift
from gsd_cli.core.training.loop import Cadence, train
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.data.dataset_writers import ArchiveWriter
from gsd_cli.data.png import encode_png
from gsd_cli.options import PrepareOptions

NAMES = list(ARCHITECTURES)


def stored(architecture: str, folder: Path) -> FeatureNet:
    """A network as it is after being saved: weights in half precision."""
    net = ARCHITECTURES[architecture](3, 5).eval().half().float()
    save_features(net, folder, {"name": "toy"})
    return net


def test_every_architecture_has_a_recipe_and_a_name_on_the_command_line() -> None:
    assert RECIPES.keys() == ARCHITECTURES.keys()
    for name in NAMES:
        assert PrepareOptions(source="x", features_net=name).features_net == name


@pytest.mark.parametrize("name", NAMES)
def test_maps_halve_and_the_pooled_last_one_is_the_vector(name: str) -> None:
    net = ARCHITECTURES[name](3, 5).eval()
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    maps = net.maps(images)
    assert [tuple(m.shape[2:]) for m in maps] == [(16, 16), (8, 8), (4, 4)]
    assert net.features(images).shape == (2, net.dim)
    torch.testing.assert_close(net.features(images), maps[-1].mean((2, 3)))
    torch.testing.assert_close(net(images), net.head(net.features(images)))


@pytest.mark.parametrize("name", NAMES)
def test_a_file_gives_the_network_back(name: str, tmp_path: Path) -> None:
    net, images = stored(name, tmp_path), torch.rand(4, 3, 32, 32) * 2 - 1
    read = load_features(tmp_path)
    assert read.architecture == name
    assert not read.training and not any(p.requires_grad for p in read.parameters())
    torch.testing.assert_close(read(images), net(images))


def change_card(folder: Path, **changes: Any) -> None:
    path = folder / "gsd.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_card_without_an_architecture_is_of_the_first(tmp_path: Path) -> None:
    stored("residual", tmp_path)
    path = tmp_path / "gsd.json"
    card = json.loads(path.read_text())
    assert card.pop("architecture") == "residual"
    path.write_text(json.dumps(card))
    assert load_features(tmp_path).architecture == "residual"


@pytest.mark.parametrize("wrong", ["transformer", "", None, 3, ["residual"]])
def test_an_unknown_architecture_is_named(wrong: object, tmp_path: Path) -> None:
    stored("convnext", tmp_path)
    change_card(tmp_path, architecture=wrong)
    with pytest.raises(GsdError, match="unknown architecture") as caught:
        load_features(tmp_path)
    assert caught.value.code == ExitCode.INPUT
    assert repr(wrong) in caught.value.message
    assert "residual, convnext" in str(caught.value.hint)


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_another_architecture_are_refused(name: str, tmp_path: Path) -> None:
    for one in NAMES:
        (tmp_path / one).mkdir()
        stored(one, tmp_path / one)
    (other,) = set(NAMES) - {name}
    shutil.copy(tmp_path / other / "features.safetensors", tmp_path / name)
    with pytest.raises(GsdError, match="cannot read the features"):
        load_features(tmp_path / name)


@pytest.mark.parametrize("changes", [{"channels": 1}, {"classes": 4}, {"classes": None}])
def test_a_card_that_names_another_size_is_refused(changes: dict[str, object], tmp_path: Path) -> None:
    stored("convnext", tmp_path)
    change_card(tmp_path, **changes)
    with pytest.raises(GsdError, match="differ in channels or classes"):
        load_features(tmp_path)


def test_erasing_leaves_one_grey_square_in_each_image() -> None:
    images = torch.full((2000, 2, 12, 15), 0.5)
    found = erase(images, torch.Generator().manual_seed(0)) == 0
    assert torch.equal(found[:, 0], found[:, 1])  # the same place in every channel
    assert (found[:, 0].sum((1, 2)) == 25).all()
    assert (found[:, 0].any(2).sum(1) == 5).all() and (found[:, 0].any(1).sum(1) == 5).all()
    assert (found[:, 0].any(0)).all()  # it may be anywhere, corners too
    assert not torch.equal(found[0], found[1])


def test_shifting_only_moves_pixels() -> None:
    images = torch.arange(2 * 36.0).reshape(2, 1, 6, 6)
    moved = [shift(images, torch.Generator().manual_seed(k)) for k in range(20)]
    assert all(torch.equal(one.flatten(1).sort(1).values, images.flatten(1)) for one in moved)
    assert any(not torch.equal(one, images) for one in moved)


@pytest.fixture(scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared zip of 12 grey images of 16 x 16, in three classes: flat, rows, columns."""
    path = tmp_path_factory.mktemp("data") / "stripes.zip"
    writer, line = ArchiveWriter(path), 255 * (np.arange(16) // 2 % 2)
    kinds = [np.full((16, 16), 128), np.repeat(line[:, None], 16, 1), np.repeat(line[None], 16, 0)]
    for i in range(12):
        writer.add(encode_png((kinds[i % 3] // (1 + i // 3))[..., None].astype(np.uint8)), i % 3)
    writer.close({"source": "stripes"})
    return path


def fit(name: str, data: Path, steps: int) -> FeatureFit:
    task = FeatureFit(ImageArchive(data), None, steps, 3, torch.device("cpu"), name)
    task.batch_size = 12
    return task


@pytest.mark.parametrize("name", NAMES)
def test_a_few_steps_learn(name: str, stripes: Path) -> None:
    task = fit(name, stripes, 24)
    losses = [task.step(step)["loss"] for step in range(24)]
    assert losses[0] == pytest.approx(math.log(3), abs=0.6)  # three classes, and nothing known
    assert sum(losses[-5:]) / 5 < 0.5 * losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_fit_is_bit_identical(name: str, toy_archive_path: Path, tmp_path: Path) -> None:
    every = Cadence(evaluate_steps=100, log_steps=1, checkpoint_seconds=0.0)
    straight, first, second = (fit(name, toy_archive_path, 4) for _ in range(3))
    for step in range(4):
        straight.step(step)
    calls = iter(range(9))
    for _ in train(first, 4, tmp_path, every, lambda: next(calls) == 1):
        pass
    assert [report.step for report in train(second, 4, tmp_path, every)] == [3, 4]
    a, b = straight.tensors(), second.tensors()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []
