"""`--refine`, run as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from gsd_cli.base.console import Console
from gsd_cli.base.session import Session
from gsd_cli.commands import bench
from gsd_cli.commands.ablation import FULL
from gsd_cli.commands.sample import make_images
from gsd_cli.core.models.generator import load_model
from gsd_cli.options import BenchOptions, SampleOptions
from tests.support import teachers, text_models
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


def test_an_ablation_compares_plain_images(workshop: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """All variants of Table 2 are made alike."""
    monkeypatch.chdir(workshop.folder)
    plain = load_model("run")
    monkeypatch.setattr(bench, "distil_variants", lambda *_: {FULL: plain, "another": load_model("run")})
    options = BenchOptions.model_validate(
        {"model": "run", "refine": 3, "compare": "", "ablate": True, "metrics": "ppl", "ppl_samples": 10}
    )
    rows = bench.run(options, Session.start(options, Console())).metrics
    assert rows["rows"]["run+3"]["calls"] == 4
    assert {row["calls"] for row in rows["ablation"]["rows"].values()} == {1}


@pytest.mark.parametrize("guidance", ["teacher:2", "1.5"])
def test_a_latent_teacher_with_classes_refines_before_the_decoder(shell: Shell, guidance: str) -> None:
    teachers.dit_pipeline(shell.folder / "dit")
    made = shell.gsd(
        "distill", "--teacher", "dit", "--steps", "1", "--batch-size", "2", "--eval-samples", "16", "--guidance",
        guidance, "--adversarial", "off", "-o", "run",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr.decode()
    plain, refined = (images(shell, "-N", "3", *words) for words in ((), ("--refine", "2")))
    assert refined.shape == plain.shape and (refined != plain).any()


def test_texts_hold_for_the_teacher_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.chdir(text_models.build(tmp_path, "SD"))

    def made(text: str, refining: int | None) -> torch.Tensor:
        options = SampleOptions.model_validate({"model": "run", "seeds": (3,), "prompt": text, "refine": refining})
        return make_images(options, Session.start(options, Console())).int()

    cat, dogs = made("a cat", 2), made("two dogs", 2)
    assert (cat != dogs).any()
    assert (cat != made("a cat", None)).any()


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
