"""gsd prepare again, with other images or captions under the same name: nothing that is older is taken for new."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from tests.support.shell import Shell

FIT = ("--size", "16", "-o", "d.zip", "--fit-steps", "2", "--batch-size", "4")
TEACHER, FEATURES = ("--fit-teacher", "tiny"), ("--fit-features",)


@pytest.fixture
def two(shell: Shell) -> Shell:
    """Two folders of images with two classes each."""
    for number, source in enumerate(("a", "b")):
        for k in range(12):
            path = shell.folder / source / f"{k % 2}" / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(100 * number + k).integers(
                90 * number, 90 * number + 120, (16, 16), np.uint8
            )
            Image.fromarray(pixels).save(path)
    return shell


def weights(shell: Shell, folder: str) -> bytes:
    (path,) = (shell.folder / folder).rglob("*.safetensors")
    return b"".join(value.tobytes() for _, value in sorted(load_file(path).items()))


@pytest.mark.parametrize(
    ("what", "folder"), [(TEACHER, "d-teacher"), (FEATURES, "d-features")], ids=["teacher", "features"]
)
def test_other_images_are_trained_on_again(two: Shell, what: tuple[str, ...], folder: str) -> None:
    assert two.gsd("prepare", "a", *FIT, *what).returncode == 0
    first = weights(two, folder)
    again = two.gsd("prepare", "a", *FIT, *what, "--force")  # the same images: what was trained stays
    assert again.returncode == 0 and b"trained again" not in again.stderr
    assert weights(two, folder) == first
    assert two.gsd("prepare", "b", "--size", "16", "-o", "d.zip", "--force").returncode == 0
    refused = two.gsd("prepare", "b", *FIT, *what)
    assert refused.returncode == 2
    assert f"{folder}.fit was begun with other images than those in d.zip" in " ".join(refused.stderr.decode().split())
    assert b"--force" in refused.stderr
    assert weights(two, folder) == first
    other = two.gsd("prepare", "b", *FIT, *what, "--force")
    assert other.returncode == 0, other.stderr.decode()
    assert f"{folder} was trained on other images: it is trained again" in " ".join(other.stderr.decode().split())
    found = weights(two, folder)
    two.gsd("prepare", "b", *FIT, *what, "-o", "e.zip")
    assert found == weights(two, folder.replace("d-", "e-")) != first


def test_another_source_or_new_captions_are_no_data_set_that_is_there(two: Shell) -> None:
    assert two.gsd("prepare", "a", "--size", "16", "-o", "d.zip").returncode == 0
    (two.folder / "c.csv").write_text("name,caption\n" + "".join(f"{k % 2}/{k}.png,text {k}\n" for k in range(12)))
    (two.folder / "moved").mkdir()
    before = (two.folder / "d.zip").read_bytes()
    for words, said in ((("b",), "source a, now b"), (("a", "--captions", "c.csv"), "--captions None, now c.csv")):
        refused = two.gsd("prepare", *words, "--size", "16", "-o", "d.zip")
        assert refused.returncode == 2
        assert f"d.zip was made with other options: {said}" in " ".join(refused.stderr.decode().split())
    assert (two.folder / "d.zip").read_bytes() == before
    (two.folder / "a").rename(two.folder / "moved" / "a")
    for source in ("a", "moved/a/"):  # nor is it read again, so it may have been moved or deleted
        assert two.gsd("prepare", source, "--size", "16", "-o", "d.zip").returncode == 0
