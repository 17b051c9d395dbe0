"""Real images of another kind than the model's: named, or converted and said; never a figure that means nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.faults.conftest import contents, require_refusal
from tests.support.shell import DISTILL, IMAGES, Shell

BENCH = ("bench", "--model", "run", "--compare", "ddim-2", "--metrics", "fd", "-N", "16")


@pytest.mark.fault(18, "a data set of another size or mode as what is real")
@pytest.mark.parametrize(
    ("prepare", "kind"), [(("--size", "32"), "(1, 32, 32)"), (("--size", "16", "--no-grey"), "(3, 16, 16)")],
    ids=["size", "mode"],
)  # fmt: skip
def test_data_of_another_kind(prepare: tuple[str, ...], kind: str, desk: Shell) -> None:
    assert desk.gsd("prepare", str(IMAGES), *prepare, "-o", "other.zip").returncode == 0
    before = contents(desk.folder)
    done = desk.gsd(*BENCH, "--features", "toy-features", "--stats", "other.zip")
    require_refusal(done, 3, "other.zip", kind, "(1, 16, 16)")
    assert contents(desk.folder) == before


@pytest.mark.fault(18, "features fitted on images of another size or mode, in bench and in distill")
@pytest.mark.parametrize("prepare", [("--size", "32"), ("--size", "16", "--no-grey")], ids=["size", "mode"])
def test_features_of_another_kind(prepare: tuple[str, ...], desk: Shell) -> None:
    fit = ("--fit-features", "--fit-steps", "2")
    assert desk.gsd("prepare", str(IMAGES), *prepare, *fit, "-o", "other.zip").returncode == 0
    before = contents(desk.folder)
    require_refusal(desk.gsd(*BENCH, "--features", "other-features"), 3, "other-features", "fitted on")
    assert contents(desk.folder) == before
    words = [word if word != "toy-features" else "other-features" for word in DISTILL]
    require_refusal(desk.gsd(*words, "--steps", "1", "-o", "new"), 3, "other-features", "fitted on")
    assert not (desk.folder / "new" / "generator").exists()


@pytest.mark.fault(18, "statistics of other features and of another width, to gsd bench")
@pytest.mark.parametrize(("width", "extractor", "word"), [(128, "other", "other"), (7, "toy", "7")])
def test_foreign_statistics(width: int, extractor: str, word: str, desk: Shell) -> None:
    np.savez(desk.folder / "x.npz", mu=np.zeros(width), sigma=np.eye(width), extractor=extractor, n=99)
    before = contents(desk.folder)
    require_refusal(desk.gsd(*BENCH, "--features", "toy-features", "--stats", "x.npz"), 3, word)
    assert contents(desk.folder) == before


def _distance(done: subprocess.CompletedProcess[bytes]) -> float:
    assert done.returncode == 0, done.stderr.decode()
    rows = json.loads(done.stdout)["metrics"]["rows"]
    return float(rows["ddim-2"]["fd"])


@pytest.mark.fault(18, "statistics of a data set on a disk that cannot be written")
def test_statistics_of_a_set_on_a_read_only_disk_are_kept_in_the_cache(disk: Callable[..., Path], desk: Shell) -> None:
    folder = disk("ro", 4000)
    shutil.copy(desk.folder / "toy.zip", folder)
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    bench = (*BENCH, "--features", "toy-features", "--json", "--stats")
    next_to = _distance(desk.gsd(*bench, "toy.zip"))
    assert _distance(desk.gsd(*bench, str(folder / "toy.zip"))) == pytest.approx(next_to, rel=1e-6)
    kept = list((desk.folder / "home" / "cache" / "statistics").iterdir())
    assert len(kept) == 1
    kept[0].write_bytes(b"")  # it is read the next time
    require_refusal(desk.gsd(*bench, str(folder / "toy.zip")), 3, "cannot read statistics")


def test_an_unpacked_data_set_is_one_wherever_it_lies(desk: Shell) -> None:
    """Its statistics are its own: a zip of its name, as of the photos that it was made from, holds other images."""
    with zipfile.ZipFile(desk.folder / "toy.zip") as archive:
        archive.extractall(desk.folder / "toy")
    bench = (*BENCH, "--features", "toy-features", "--json", "--stats")
    whole = _distance(desk.gsd(*bench, "toy.zip"))
    assert _distance(desk.gsd(*bench, "toy/")) == pytest.approx(whole, rel=1e-6)
    for image in sorted((desk.folder / "toy").rglob("*.png"))[40:]:
        image.unlink()
    (desk.folder / "toy" / "dataset.json").unlink()
    assert _distance(desk.gsd(*bench, "toy")) != pytest.approx(whole, rel=1e-3)


def test_hints_name_options_that_the_command_has(desk: Shell) -> None:
    (desk.folder / "file").write_bytes(b"")
    for arguments, option, other in ((BENCH, "--report", "-o"), (("sample", "--model", "run"), "-o", "--report")):
        done = desk.gsd(*arguments, option, "file/below")
        require_refusal(done, 8, f"choose another place with {option}")
        assert f" {other}" not in done.stderr.decode().split("hint: ")[1]
