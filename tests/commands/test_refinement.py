"""gsd distill --refine, run as a user runs it."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal

import numpy as np
import pytest
import torch

from gsd_cli.core.models.few_steps import spread_levels
from gsd_cli.core.models.generator import load_model
from tests.support.damage import flip
from tests.support.shell import DISTILL, Shell, wait_for

REFINE = (*DISTILL, "--start", "run", "--refine", "3")


@pytest.fixture(scope="module")
def refined(workshop: Shell) -> Shell:
    done = workshop.gsd(*REFINE, "--steps", "3", "-o", "refined")  # a worker may come back to it
    assert done.returncode == 0, done.stderr.decode()
    return Shell(workshop.folder / "refined")


def test_the_command_says_what_is_learnt_and_what_came_of_it(workshop: Shell) -> None:
    done = workshop.gsd(*REFINE, "--steps", "1", "--no-resume", "-o", "spoken")
    assert done.returncode == 0, done.stderr.decode()
    said = " ".join(done.stderr.decode().split())
    assert "run makes images in one call and the teacher refines them in 3" in said
    figures = json.loads((workshop.folder / "spoken" / "generator" / "gsd.json").read_text())["figures"]
    assert f"{figures['fd']:.4g} after 8 images, " in said


def test_the_run_says_what_it_made(refined: Shell) -> None:
    card = json.loads((refined.folder / "generator" / "gsd.json").read_text())
    assert card["sigmas"] == list(spread_levels(2.5, 2))
    assert (card["format"], card["later"]) == (3, True)
    assert (card["settings"]["refine"], card["settings"]["start"], card["settings"]["adversarial"]) == (3, "run", 0)
    text = (refined.folder / "generator" / "README.md").read_text()
    assert text.startswith("# Generator of 2 steps distilled from toy-teacher")
    assert "--start run --refine 3`" in text and "refinement distillation" in text
    assert "isometric" not in text
    rows = [json.loads(line) for line in (refined.folder / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "fd"} <= rows[-1].keys()
    assert card["parameters"] == 2 * card["teacher_parameters"]


def test_its_images_depend_on_their_seed_alone(refined: Shell) -> None:
    made = refined.gsd("sample", "--model", ".", "-N", "5", "-o", "all.npz")
    assert made.returncode == 0, made.stderr.decode()
    one = refined.gsd("sample", "--model", ".", "--seeds", "3", "-o", "one.npz")
    assert one.returncode == 0, one.stderr.decode()
    whole, alone = (np.load(refined.folder / name)["images"] for name in ("all.npz", "one.npz"))
    np.testing.assert_array_equal(alone[0], whole[3])
    made = load_model(str(refined.folder))
    assert made.generator.calls == 2
    first = load_model(str(refined.folder.parent / "run")).generator.denoiser
    second = made.generator.later
    assert second is not None
    pairs = zip(first.parameters(), made.generator.denoiser.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) and not torch.equal(b, c) for a, b, c in pairs if a.ndim > 1)


def test_an_altered_second_network_is_refused(refined: Shell) -> None:
    flip(refined.folder / "best" / "later" / "diffusion_pytorch_model.safetensors")
    done = refined.gsd("sample", "--model", "best", "-N", "1")
    assert done.returncode == 3
    assert b"the weights in best are not those that its gsd.json names" in done.stderr


def test_walks_inversions_edits_and_bench_take_it(workshop: Shell, refined: Shell) -> None:
    assert refined.gsd("sample", "--model", ".", "--seeds", "7", "-o", "image.png").returncode == 0
    invert = ("--invert-steps", "4", "--invert-starts", "1", "--model", ".", "--json")
    walk = refined.gsd("interpolate", "image.png", "seed:2", *invert, "-o", "strip.png")
    edit = refined.gsd("edit", "image.png", *invert, "--direction", "pc0", "-o", "edit.png")
    for done in (walk, edit):
        assert done.returncode == 0, done.stderr.decode()
        assert "psnr" in json.dumps(json.loads(done.stdout)["metrics"])
    bench = workshop.gsd(
        "bench", "--model", "refined", "--compare", "", "--metrics", "fd", "-N", "16", "--features", "toy-features",
        "--json",
    )  # fmt: skip
    assert bench.returncode == 0, bench.stderr.decode()
    (row,) = json.loads(bench.stdout)["metrics"]["rows"].values()
    assert row["calls"] == 2


@pytest.mark.slow
def test_it_is_exported_whole(refined: Shell) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    done = refined.gsd("sample", "--model", ".", "--export", "whole.onnx")
    assert done.returncode == 0, done.stderr.decode()
    pair = [
        refined.gsd("sample", "--model", model, "-N", "3", "-o", name)
        for model, name in ((".", "torch.npz"), ("whole.onnx", "onnx.npz"))
    ]
    assert all(one.returncode == 0 for one in pair)
    torches, onnx = (np.load(refined.folder / f"{name}.npz")["images"].astype(int) for name in ("torch", "onnx"))
    assert np.abs(torches - onnx).max() <= 1


def test_a_run_resumes_and_no_other_adds_a_network_to_it(workshop: Shell, refined: Shell) -> None:
    again = workshop.gsd(*REFINE, "--steps", "3", "-o", "refined")
    assert b"nothing to do" in again.stderr
    other = workshop.gsd(*DISTILL, "--start", "run", "--refine", "4", "--steps", "4", "-o", "refined")
    assert other.returncode == 2
    said = " ".join(other.stderr.decode().split())
    assert "refine (3 -> 4)" in said and "--force" not in said
    longer = workshop.gsd(*REFINE, "--steps", "4", "-o", "refined")
    assert longer.returncode == 0, longer.stderr.decode()
    for words in (("--refine", "2"), ("--student-steps", "2"), ("--student-width", "2")):
        refused = workshop.gsd(*DISTILL, "--start", str(refined.folder), *words, "--steps", "1", "-o", "refused")
        assert refused.returncode == 2
        said = " ".join(refused.stderr.decode().split())
        assert f"has a second network for its second call: {words[0]}" in said
        assert "start from the first call: run" in said
        assert not (workshop.folder / "refused").exists()


@pytest.mark.slow
def test_the_command_that_a_stopped_run_prints_resumes_it(workshop: Shell) -> None:
    process = workshop.start(*REFINE, "--steps", "24", "-o", "stopped")
    wait_for(workshop.folder / "stopped" / "metrics.jsonl")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err.decode()
    hint = err.decode().split("resume with: ")[1].splitlines()[0]
    resumed = workshop.gsd(*shlex.split(hint)[1:])
    assert resumed.returncode == 0, resumed.stderr.decode()
    assert json.loads((workshop.folder / "stopped" / "generator" / "gsd.json").read_text())["steps"] == 24


def test_the_dry_run_counts_its_work(workshop: Shell) -> None:
    done = workshop.gsd(*REFINE, "--steps", "10", "-o", "planned", "-n")
    assert done.returncode == 0, done.stderr.decode()
    said = " ".join((done.stdout + done.stderr).decode().split())
    # 80 images: a call of the start, three of the teacher, and three passes of the network that learns
    assert "about 560 forward passes" in said
    assert "refine = 3" in said and "lr = 0.0002" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--refine", "3"), "--refine teaches a generator that exists: give --start MODEL"),
        (("--start", "run", "--refine", "1"), "greater than or equal to 2"),
        (("--start", "run", "--refine", "3", "--adversarial", "2"), "--adversarial does nothing with --refine"),
        (("--start", "run", "--refine", "3", "--irl", "speed"), "--irl does nothing with --refine"),
        (("--start", "run", "--refine", "3", "--guidance", "2"), "--guidance does nothing with --refine"),
        (("--start", "run", "--refine", "3", "--student-steps", "2"), "--student-steps does nothing with --refine"),
        (("--start", "run", "--refine", "3", "--shard"), "--shard does nothing with --refine"),
        (("--start", "fashion", "--refine", "3"), "fashion makes images of (1, 32, 32)"),
    ],
)
def test_what_it_refuses(workshop: Shell, words: tuple[str, ...], said: str) -> None:
    done = workshop.gsd(*DISTILL, "--steps", "3", *words, "-o", "refused")
    assert done.returncode in (2, 3)
    assert said in " ".join(done.stderr.decode().split())
    assert not (workshop.folder / "refused").exists()


def test_a_run_does_not_go_on_with_another_start(workshop: Shell, refined: Shell) -> None:
    record = refined.folder / "options.json"
    before = record.read_text()
    record.write_text(json.dumps({**json.loads(before), "start_mark": "0" * 16}))
    try:
        done = workshop.gsd(*REFINE, "--steps", "9", "-o", "refined")
    finally:
        record.write_text(before)
    assert done.returncode == 2
    assert "run is no longer the generator that refined began with" in " ".join(done.stderr.decode().split())


def test_a_run_without_a_folder_of_its_own_is_not_the_starts(workshop: Shell) -> None:
    done = workshop.gsd("distill", "--teacher", "toy-teacher", "--start", "run", "--refine", "3", "--steps", "3", "-n")
    assert done.returncode == 0, done.stderr.decode()
    assert "writes runs/toy-teacher-quick-refined/" in " ".join((done.stdout + done.stderr).decode().split())


def test_another_teacher_than_the_starts_is_named(workshop: Shell) -> None:
    card = workshop.folder / "run" / "generator" / "gsd.json"
    before = card.read_text()
    card.write_text(json.dumps({**json.loads(before), "teacher": "another"}))
    try:
        done = workshop.gsd(*REFINE, "--steps", "1", "-o", "crossed")
    finally:
        card.write_text(before)
    assert done.returncode == 0, done.stderr.decode()
    assert "run was distilled from another, and toy-teacher refines it" in " ".join(done.stderr.decode().split())


def test_a_distillation_goes_on_with_the_second_network(workshop: Shell, refined: Shell) -> None:
    shutil.copytree(refined.folder / "generator", workshop.folder / "two")
    further = (*DISTILL, "--start", "two", "--fake-warmup", "0.008", "-o", "further")
    planned = workshop.gsd(*further, "--steps", "2", "--dry-run", "--json")
    plain = workshop.gsd(*DISTILL, "-o", "further", "--steps", "2", "--dry-run", "--json")
    counted = [
        int(re.search(r"about ([\d,]+) forward", done.stdout.decode())[1].replace(",", ""))  # type: ignore[index]
        for done in (planned, plain)
    ]
    assert counted[1] + 2 * 8 * 2 <= counted[0] <= counted[1] + 2 * 8 * 4  # two calls, and those of the isometric term
    begun = workshop.gsd(*further, "--steps", "2")
    assert begun.returncode == 0, begun.stderr.decode()
    assert "the second network of two is trained; the first call stays as it is" in " ".join(
        begun.stderr.decode().split()
    )
    made = workshop.gsd(*further, "--steps", "3")
    assert made.returncode == 0, made.stderr.decode()
    assert b"resumed at step 2" in made.stderr
    one, two = (load_model(str(workshop.folder / name)).generator for name in ("two", "further"))
    assert one.later is not None and two.later is not None
    assert all(torch.equal(a, b) for a, b in zip(one.denoiser.parameters(), two.denoiser.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.later.parameters(), two.later.parameters(), strict=True))
    card = json.loads((workshop.folder / "further" / "generator" / "gsd.json").read_text())
    assert (card["later"], card["sigmas"], card["settings"]["refine"]) == (True, list(one.sigmas), None)
    text = (workshop.folder / "further" / "generator" / "README.md").read_text()
    assert "the network of its second call was trained" in text and "score identity distillation. 2 network" in text
    assert b"train the fake score alone" not in made.stderr
    refused = workshop.gsd(*DISTILL, "--start", "further", "--refine", "2", "--steps", "1", "-o", "refused")
    assert refused.returncode == 2
    assert b"hint: leave it out\n" in refused.stderr  # `further` does not say what its first call is
    shutil.rmtree(workshop.folder / "two")
    shutil.copytree(workshop.folder / "further" / "generator", workshop.folder / "two")
    other = workshop.gsd(*further, "--steps", "4")
    assert other.returncode == 2
    assert "two is no longer the generator that further began with" in " ".join(other.stderr.decode().split())
