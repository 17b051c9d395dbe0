"""Real images of another kind than the model's: named, or converted and said; never a figure that means nothing."""

from __future__ import annotations

import numpy as np
import pytest

from tests.faults.conftest import contents, require_refusal
from tests.shell import DISTILL, IMAGES, Shell

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


@pytest.mark.fault(18, "features fitted on pictures of another size or mode, in bench and in distill")
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
