"""gsd distill --student-width and --student-depth, as processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from diffusers import UNet2DModel

from gsd_cli.base.text import format_bytes
from tests.support import teachers
from tests.support.disk import pretend_room
from tests.support.shell import DISTILL, Shell


@pytest.fixture(scope="module")
def run(workshop: Shell) -> Shell:
    done = workshop.gsd(*DISTILL, "--student-depth", "2", "--steps", "2", "-o", "deeper")
    assert done.returncode == 0, done.stderr.decode()
    return Shell(workshop.folder / "deeper")


def test_a_deeper_student_samples(workshop: Shell, run: Shell) -> None:
    done = run.gsd("sample", "--model", ".", "-N", "2", "-o", "out")
    assert done.returncode == 0, done.stderr.decode()
    assert len(list((run.folder / "out").glob("*.png"))) == 2
    teacher = UNet2DModel.from_pretrained(workshop.folder / "toy-teacher")
    student = UNet2DModel.from_pretrained(run.folder / "generator")
    assert student.config.layers_per_block == 2 * teacher.config.layers_per_block
    assert student.config.block_out_channels == teacher.config.block_out_channels
    card = json.loads((run.folder / "generator" / "gsd.json").read_text())
    assert (card["settings"]["student_width"], card["settings"]["student_depth"]) == (1, 2)
    counted = (sum(p.numel() for p in net.parameters()) for net in (student, teacher))
    assert (card["parameters"], card["teacher_parameters"]) == tuple(counted)
    assert "2 times the layers per block" in (run.folder / "generator" / "README.md").read_text()


def test_walks_and_edits_work_with_a_deeper_student(run: Shell) -> None:
    for command in (
        ("interpolate", "seed:1", "seed:2", "-o", "strip.png"),
        ("edit", "seed:1", "--direction", "pc0", "-o", "edit.png"),
    ):
        done = run.gsd(*command, "--model", ".")
        assert done.returncode == 0, done.stderr.decode()


def test_a_resumed_run_must_name_the_same_size(workshop: Shell, run: Shell) -> None:
    def again(*flags: str) -> str:
        done = workshop.gsd(*DISTILL, *flags, "--steps", "3", "-o", "deeper")
        assert done.returncode == 2
        return done.stderr.decode()

    assert "student_depth (2 -> 1)" in again()
    assert "student_width (1 -> 2)" in again("--student-depth", "2", "--student-width", "2")
    assert "student_depth (2 -> 1)" in again("--force")  # no checkpoint fits another size
    before = json.loads((run.folder / "options.json").read_text())
    assert (before["student_width"], before["student_depth"]) == (1, 2)
    done = workshop.gsd(*DISTILL, "--student-depth", "2", "--steps", "3", "-o", "deeper")
    assert done.returncode == 0, done.stderr.decode()
    assert "resumed at step 2" in done.stderr.decode()


def plan(shell: Shell, *arguments: str) -> list[str]:
    done = shell.running(*arguments, "--dry-run", "--json", prepare=pretend_room).wait()
    assert done.returncode == 0, done.stderr.decode()
    lines: list[str] = json.loads(done.stdout)["metrics"]["plan"]
    return lines


def test_a_dry_run_counts_the_student(workshop: Shell, run: Shell) -> None:
    card = json.loads((run.folder / "generator" / "gsd.json").read_text())
    settings = ("--steps", "10", "--irl", "off", "--adversarial", "off", "-o", "not-yet")
    (line,) = (line for line in plan(workshop, *DISTILL, *settings, "--student-depth", "2") if "passes" in line)
    # 12 passes per image, four of them the generator's
    own = f"{card['parameters'] / 1e6:.1f} M"
    assert line.startswith(f"about 720 forward passes of 0.0 M parameters and 320 of the student's {own}; ")
    assert f"; {format_bytes(4 * 5 * (card['parameters'] + card['teacher_parameters']))} of memory" in line
    # a teacher that is not here is known by its size alone
    absent = plan(workshop, "distill", "--teacher", "ddpm-cifar10", "--student-width", "2")
    assert any("of the student's 143.0 M" in line for line in absent)


def test_a_network_that_cannot_grow_is_refused_before_anything_is_written(workshop: Shell, tmp_path: Path) -> None:
    changes = {"down_block_types": ("SkipDownBlock2D",) * 2, "up_block_types": ("SkipUpBlock2D",) * 2}
    net = teachers.unet({**teachers.SMALL, **changes, "in_channels": 3, "out_channels": 3})
    folder = teachers.flat(tmp_path / "skip", net)
    for flags in ((), ("--dry-run",)):
        done = workshop.gsd("distill", "--teacher", str(folder), "--student-depth", "2", "-o", "refused", *flags)
        assert done.returncode == 2, done.stderr.decode()
        assert "a network with a SkipDownBlock2D cannot be grown" in done.stderr.decode()
        assert not (workshop.folder / "refused").exists()
