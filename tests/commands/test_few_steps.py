"""gsd distill --student-steps, and every subcommand on what it makes, as processes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gsd_cli.core.models.few_steps import spread_levels
from gsd_cli.core.models.generator import load_model
from tests.support.shell import DISTILL, Shell

INVERT = ("--invert-steps", "4", "--invert-starts", "1")


@pytest.fixture(scope="module")
def run(workshop: Shell) -> Shell:
    done = workshop.gsd(*DISTILL, "--student-steps", "2", "--steps", "2", "-o", "few")
    assert done.returncode == 0, done.stderr.decode()
    return Shell(workshop.folder / "few")


def test_the_run_says_what_it_made(run: Shell) -> None:
    card = json.loads((run.folder / "generator" / "gsd.json").read_text())
    assert card["sigmas"] == list(spread_levels(2.5, 2))
    assert (card["format"], card["settings"]["student_steps"]) == (2, 2)
    text = (run.folder / "generator" / "README.md").read_text()
    assert text.startswith("# Generator of 2 steps distilled from toy-teacher")
    assert "2 network calls" in text
    assert "UNet2DModel.from_pretrained" not in text  # diffusers alone would make one call


def test_images_depend_on_their_seed_alone(run: Shell) -> None:
    for seeds, size, name in (("0-4", "5", "all.npz"), ("3", "1", "one.npz")):
        done = run.gsd("sample", "--model", ".", "--seeds", seeds, "--batch-size", size, "-o", name)
        assert done.returncode == 0, done.stderr.decode()
    whole, one = (np.load(run.folder / name)["images"] for name in ("all.npz", "one.npz"))
    np.testing.assert_array_equal(one[0], whole[3])
    assert load_model(str(run.folder)).generator.calls == 2
    planned = run.gsd("sample", "--model", ".", "-N", "3", "--dry-run")
    assert "2 network calls each" in planned.stderr.decode() + planned.stdout.decode()


@pytest.mark.parametrize(
    "command",
    [
        ("interpolate", "image.png", "seed:2", *INVERT, "-o", "strip.png"),
        ("edit", "image.png", *INVERT, "--direction", "pc0", "-o", "edit.png"),
    ],
    ids=lambda command: command[0],
)
def test_walks_inversion_and_edits(run: Shell, command: tuple[str, ...]) -> None:
    assert run.gsd("sample", "--model", ".", "--seeds", "7", "-o", "image.png").returncode == 0
    done = run.gsd(*command, "--model", ".", "--json")
    assert done.returncode == 0, done.stderr.decode()
    report = json.loads(done.stdout)
    assert all((run.folder / path).is_file() for path in report["outputs"])
    assert "psnr" in json.dumps(report["metrics"])


@pytest.mark.usefixtures("run")
def test_bench_counts_its_calls(workshop: Shell) -> None:
    done = workshop.gsd(
        "bench", "--model", "few", "--compare", "ddim-3", "--metrics", "ppl", "--ppl-samples", "10", "--json"
    )
    assert done.returncode == 0, done.stderr.decode()
    rows = json.loads(done.stdout)["metrics"]["rows"]
    assert {name: row["calls"] for name, row in rows.items()} == {"ddim-3": 3, "few": 2}
    assert "2/3" in done.stderr.decode()  # of the ratio's line
    assert "ppl_1e-3" in rows["few"]


def test_a_resumed_run_must_have_as_many_steps(workshop: Shell, run: Shell) -> None:
    other = workshop.gsd(*DISTILL, "--steps", "3", "-o", "few")
    assert other.returncode == 2
    assert "student_steps (2 -> 1)" in other.stderr.decode()
    done = workshop.gsd(*DISTILL, "--student-steps", "2", "--steps", "3", "-o", "few")
    assert done.returncode == 0, done.stderr.decode()
    assert "resumed at step 2" in done.stderr.decode()


def test_a_generator_of_one_step_may_be_the_start(workshop: Shell, tmp_path: Path) -> None:
    out = str(tmp_path / "started")
    done = workshop.gsd(*DISTILL, "--start", "run", "--student-steps", "4", "--steps", "1", "-o", out)
    assert done.returncode == 0, done.stderr.decode()
    card = json.loads((tmp_path / "started" / "generator" / "gsd.json").read_text())
    assert card["sigmas"] == list(spread_levels(2.5, 4))


@pytest.mark.parametrize("steps", ["0", "9", "two"])
def test_other_numbers_of_steps_are_refused(workshop: Shell, steps: str) -> None:
    done = workshop.gsd(*DISTILL, "--student-steps", steps, "-o", "refused")
    assert done.returncode == 2
    assert "--student-steps" in done.stderr.decode()
    assert not (workshop.folder / "refused").exists()


def test_a_dry_run_counts_all_calls(workshop: Shell) -> None:
    def passes(*flags: str) -> str:
        flags = (*DISTILL, "--steps", "10", "--irl", "off", "--adversarial", "off", "-o", "not-yet", *flags)
        done = workshop.gsd(*flags, "--dry-run", "--json")
        assert done.returncode == 0, done.stderr.decode()
        (line,) = (line for line in json.loads(done.stdout)["metrics"]["plan"] if "forward passes" in line)
        return line.split(" of ")[0]

    # of 13 passes of one image, four are the generator's
    assert passes() == "about 1,040 forward passes"
    assert passes("--student-steps", "3") == "about 1,680 forward passes"
