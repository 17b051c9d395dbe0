"""Arrays of images as sources, and data sets in shards."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from gsd_cli.base.errors import GsdError
from gsd_cli.base.signals import StopRequest
from gsd_cli.data.build import Preparation, prepare
from gsd_cli.data.decode import decode
from gsd_cli.data.labels import Labels
from gsd_cli.data.sources.open import open_path

PIXELS = np.random.default_rng(3).integers(0, 256, (6, 9, 9, 5), dtype=np.uint8)


def pixels(path: Path, split: str = "train") -> np.ndarray:
    source = open_path(path, split)
    return np.stack([np.asarray(decode(p, {"float": (0, 1)})) for p in source.payloads(range(len(source.names)))])


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (PIXELS, PIXELS),
        (PIXELS.transpose(0, 3, 1, 2), PIXELS),
        (PIXELS[..., :3], PIXELS[..., :3]),
        (PIXELS[..., 0], PIXELS[..., 0]),
        (PIXELS[..., :1], PIXELS[..., 0]),
        (PIXELS[..., 0] > 99, (PIXELS[..., 0] > 99) * 255),
        ((PIXELS / 255).astype(">f4"), PIXELS),
    ],
    ids=["channels last", "channels first", "RGB", "grey", "one channel", "booleans", "big-endian floats"],
)
def test_a_stack_of_any_layout(tmp_path: Path, array: np.ndarray, expected: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", array)
    assert np.array_equal(pixels(tmp_path / "x.npy"), expected)


@pytest.mark.parametrize(
    ("names", "split"),
    [
        (("images", "labels"), "train"), (("arr_0", "arr_1"), "train"), (("x_train", "y_train"), "train"),
        (("x_test", "y_test"), "test"), (("val_images", "val_labels"), "val"),
    ],
)  # fmt: skip
def test_an_npz_with_labels(tmp_path: Path, names: tuple[str, str], split: str) -> None:
    others = {"seeds": np.arange(6), "train_images": PIXELS[:2]} if split == "val" else {"seeds": np.arange(6)}
    np.savez(tmp_path / "x.npz", **others, **{names[0]: PIXELS, names[1]: np.array([[1], [2], [3], [1], [2], [3]])})
    source = open_path(tmp_path / "x.npz", split)
    assert np.array_equal(pixels(tmp_path / "x.npz", split), PIXELS)
    assert source.labels == Labels([0, 1, 2, 0, 1, 2], ("1", "2", "3"))


def test_numbers_that_are_no_classes_are_no_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=PIXELS, labels=np.linspace(0, 1, 6))
    source = open_path(tmp_path / "x.npz", "train")
    assert (source.labels, source.labels_message) == (None, "no labels")
    assert "labels (6,) of float64 holds no classes or attributes" in source.warnings[0]


ONE_HOT = np.eye(3)[[0, 1, 2, 0, 1, 2]]
ARRAYS: dict[str, tuple[str, np.ndarray, Labels]] = {
    "one-hot floats": ("labels", ONE_HOT, Labels([0, 1, 2, 0, 1, 2])),
    "one-hot booleans": ("y", ONE_HOT > 0, Labels([0, 1, 2, 0, 1, 2])),
    "attributes": ("labels", np.array([[1, 1], [0, 0], [0, 1]] * 2), Labels([(1, 1), (0, 0), (0, 1)] * 2)),
    "scikit-learn's name": ("target", np.array([0, 1] * 3), Labels([0, 1] * 3)),
    "whole floats": ("labels", np.array([0.0, 1.0] * 3), Labels([0, 1] * 3)),
    "text": ("labels", np.array(["dog", "cat"] * 3), Labels([1, 0] * 3, ("cat", "dog"))),
    "bytes": ("labels", np.array(["d\u00f6g".encode(), b"cat"] * 3), Labels([1, 0] * 3, ("cat", "d\u00f6g"))),
}  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
def test_labels_in_arrays_of_every_form(tmp_path: Path, name: str) -> None:
    key, array, labels = ARRAYS[name]
    np.savez(tmp_path / "x.npz", data=PIXELS, **{key: array})
    source = open_path(tmp_path / "x.npz", "train")
    assert source.labels == labels
    assert f"from the array {key}" in source.labels_message


@pytest.mark.parametrize("labels", [np.arange(5), np.arange(7), np.zeros((5, 3)), np.int64(3)])
def test_another_number_of_labels_than_images_is_an_input_error(tmp_path: Path, labels: np.ndarray) -> None:
    np.savez(tmp_path / "x.npz", images=PIXELS, labels=labels)
    with pytest.raises(GsdError, match="not one label for each of 6 images") as caught:
        open_path(tmp_path / "x.npz", "train")
    assert caught.value.code == 3


def test_arrays_that_are_not_read_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=PIXELS, kinds=np.arange(6), mu=np.zeros(9))
    source = open_path(tmp_path / "x.npz", "train")
    assert source.messages == ("arrays that are not read: kinds (6,), mu (9,)",)
    assert source.labels_message == "no labels: no array is named labels"


@pytest.mark.parametrize("array", [np.zeros(5), np.zeros((4, 4)), np.zeros((0, 4, 4)), np.array([{"a": 1}])])
def test_other_arrays_are_input_errors(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "x.npy", array)
    np.savez(tmp_path / "x.npz", images=array)
    for name in ("x.npy", "x.npz"):
        with pytest.raises(GsdError) as caught:
            open_path(tmp_path / name, "train")
        assert caught.value.code == 3


def test_an_npz_bomb_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", bytes(2**28))
    with pytest.raises(GsdError, match="bomb"):
        open_path(tmp_path / "x.npz", "train")


@pytest.mark.parametrize("shards", [None, 2])
@pytest.mark.parametrize("channels", [5, 3])
def test_a_prepared_set_is_prepared_again_with_its_labels(tmp_path: Path, channels: int, shards: int | None) -> None:
    np.save(tmp_path / "x.npy", PIXELS[..., :channels])
    labels = Labels([0, 1, 2, 0, 1, 2], ("cat", "dog", "eel"))
    first = tmp_path / ("a.json" if shards else "a.zip")
    recipe = Preparation(16, channels, shards=shards)
    prepare(open_path(tmp_path / "x.npy", "train"), first, recipe, labels, False, 1, StopRequest(), lambda done: None)
    again = open_path(first, "train")
    assert again.labels == labels
    assert np.array_equal(pixels(first), np.stack([np.asarray(decode(p)) for p in again.payloads(range(6))]))
    assert pixels(first).shape == (6, 16, 16, channels)
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(GsdError, match="index of shards"):
        open_path(tmp_path / "b.json", "train")
