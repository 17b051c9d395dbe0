"""`--refine`, run as a user runs it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.support.shell import Shell


def images(shell: Shell, *words: str) -> np.ndarray:
    done = shell.gsd("sample", "--model", "run", *words, "-o", "refined.npz")
    assert done.returncode == 0, done.stderr.decode()
    return np.load(shell.folder / "refined.npz")["images"]


def test_refined_images_depend_on_their_seed_alone(workshop: Shell) -> None:
    plain, refined = images(workshop, "-N", "6"), images(workshop, "-N", "6", "--refine", "3")
    assert refined.shape == plain.shape
    assert all((one != other).any() for one, other in zip(plain, refined, strict=True))
    assert np.array_equal(images(workshop, "--seeds", "4,2", "--refine", "3"), refined[[4, 2]])


def test_the_dry_run_counts_the_teachers_calls(workshop: Shell) -> None:
    done = workshop.gsd("sample", "--model", "run", "-N", "6", "--refine", "3", "-n")
    assert done.returncode == 0
    assert b"4 network calls each" in done.stdout


def test_bench_measures_the_refined_model_next_to_the_plain_one(workshop: Shell) -> None:
    done = workshop.gsd(
        "bench", "--model", "run", "--refine", "3", "--compare", "./run", "--metrics", "fd,ppl", "-N", "16",
        "--ppl-samples", "10", "--features", "toy-features", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    rows = json.loads(done.stdout)["metrics"]["rows"]
    plain, refined = rows["./run"], rows["run+3"]
    assert (plain["calls"], refined["calls"]) == (1, 4)
    assert refined["parameters"] == 2 * plain["parameters"]  # the teacher's are needed too
    assert plain["fd"] != refined["fd"] and plain["ppl"] != refined["ppl"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sample", "--refine", "1"), "greater than or equal to 2"),
        (("sample", "--refine", "3", "--backend", "onnx"), "--refine calls the teacher"),
        (("sample", "--refine", "3", "--export", "x.onnx"), "leave out --refine"),
        (("bench", "--refine", "3", "--backend", "onnx"), "--refine calls the teacher"),
    ],
)
def test_contradictions_are_refused(workshop: Shell, words: tuple[str, ...], said: str) -> None:
    done = workshop.gsd(*words, "--model", "run")
    assert done.returncode == 2
    assert said in " ".join(done.stderr.decode().split())
