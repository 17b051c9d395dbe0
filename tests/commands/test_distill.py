"""A run of gsd distill with every option on, as a process."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gsd_cli.core.distillation.isometric_forms import FORMS
from gsd_cli.options.distill import FITTED_FORMS
from tests.support.disk import pretend_room
from tests.support.shell import DISTILL, Shell

ALL = ("--adversarial", "1", "--recompute", "--reuse-images", "--micro-batch", "4", "--tracker", "tensorboard")


@pytest.fixture(scope="module")
def run(workshop: Shell) -> Shell:
    done = workshop.gsd(*DISTILL, "--steps", "12", "--eval-every", "0.016", "-o", "everything", *ALL)
    assert done.returncode == 0, done.stderr.decode()
    return Shell(workshop.folder / "everything")


def rows(run: Shell) -> list[dict]:
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def test_the_best_snapshot_is_kept_next_to_the_newest(run: Shell) -> None:
    measured = {row["step"]: row["fd"] for row in rows(run) if "fd" in row and row["step"]}
    card = json.loads((run.folder / "best" / "gsd.json").read_text())
    assert card["figures"]["fd"] == min(measured.values())
    assert measured[card["steps"]] == min(measured.values())
    assert json.loads((run.folder / "generator" / "gsd.json").read_text())["steps"] == 12


def test_the_best_snapshot_samples(run: Shell) -> None:
    done = run.gsd("sample", "--model", "best", "-N", "2", "-o", "out")
    assert done.returncode == 0, done.stderr.decode()
    assert len(list((run.folder / "out").glob("*.png"))) == 2


def test_the_tracker_holds_what_the_metrics_hold(run: Shell) -> None:
    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    sent = {event.step: event.value for event in events.Scalars("fd")}
    measured = {row["images"]: row["fd"] for row in rows(run) if "fd" in row and row["step"]}
    assert sent == pytest.approx(measured)
    assert "discriminator_loss" in events.Tags()["scalars"]
    assert "adversarial_loss" in rows(run)[-1]


def test_starting_again_forgets_the_best(workshop: Shell, run: Shell) -> None:
    copy = workshop.folder / "again"
    shutil.copytree(run.folder, copy)
    card = copy / "best" / "gsd.json"
    facts = json.loads(card.read_text())
    card.write_text(json.dumps({**facts, "figures": {"fd": -1.0}}))
    done = workshop.gsd(*DISTILL, "--steps", "2", "--eval-every", "0.016", "-o", "again", "--no-resume")
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(card.read_text())["figures"]["fd"] > 0


def test_a_dry_run_says_what_it_needs_and_writes_nothing(workshop: Shell) -> None:
    done = workshop.gsd(*DISTILL, "-o", "not-yet", "--dry-run", "--json")
    plan = json.loads(done.stdout)["metrics"]["plan"]
    assert any("of activations" in line and "on cpu" in line for line in plan)
    unknown = ("distill", "--teacher", "ddpm-cifar10", "--dry-run", "--json")
    absent = workshop.running(*unknown, prepare=pretend_room).wait()
    assert any("not known until" in line for line in json.loads(absent.stdout)["metrics"]["plan"])
    assert not (workshop.folder / "not-yet").exists()


def test_missing_data_and_packages_are_errors(workshop: Shell) -> None:
    alone = workshop.folder / "alone"
    shutil.copytree(workshop.folder / "toy-teacher", alone)
    done = workshop.gsd("distill", "--teacher", "alone", "--adversarial", "1", "--steps", "1", "-o", "none")
    assert done.returncode == 2
    assert "needs real images" in done.stderr.decode()
    done = workshop.gsd(*DISTILL, "--steps", "1", "-o", "none", "--tracker", "trackio")
    assert done.returncode == 2
    assert "pip install trackio" in done.stderr.decode()


@pytest.mark.parametrize("form", FITTED_FORMS)
def test_a_form_that_is_fitted_end_to_end(workshop: Shell, form: str) -> None:
    """Checkpoints hold its layout, and a longer run resumes with it."""
    assert FORMS[form].fitted_to is not None
    for steps in ("6", "8"):
        done = workshop.gsd(*DISTILL, "--steps", steps, "--irl", form, "-o", form)
        assert done.returncode == 0, done.stderr.decode()
    kept = [load_file(path) for path in sorted((workshop.folder / form / "checkpoints").glob("*/tensors.safetensors"))]
    layouts = [{name: value for name, value in tensors.items() if name.startswith("layout/")} for tensors in kept]
    assert len(layouts) == 2
    assert len(layouts[0]) == (2 if form == "borders" else 4)
    assert all(torch.equal(value, layouts[1][name]) for name, value in layouts[0].items())
    last = [json.loads(row) for row in (workshop.folder / form / "metrics.jsonl").read_text().splitlines()][-1]
    assert (last["step"], last["irl_norm"] > 0) == (8, True)


def test_the_forms_that_are_given_real_images_are_those_that_are_fitted() -> None:
    assert {name for name, form in FORMS.items() if form.fitted_to} == set(FITTED_FORMS)


def test_a_teacher_is_the_same_however_its_folder_is_spelt(workshop: Shell, tmp_path: Path) -> None:
    """The place identifies a teacher, or its weights and schedule if it moved. With other weights it is another one."""
    for name in ("toy.zip", "toy-features", "toy.toy.npz", "toy-teacher"):
        source = workshop.folder / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    shell, given = Shell(tmp_path), ("--data", f"{tmp_path}/toy.zip", "--features", f"{tmp_path}/toy-features")
    rest = (*given, "--batch-size", "8", "--eval-samples", "16", "--steps", "2", "-o", str(tmp_path / "spelt"))
    begun = shell.gsd("distill", "--teacher", "toy-teacher", *rest)
    assert begun.returncode == 0, begun.stderr.decode()
    shutil.copytree(tmp_path / "toy-teacher", tmp_path / "elsewhere" / "moved")
    (tmp_path / "link").symlink_to("toy-teacher")
    for spelling in ("toy-teacher/", "./toy-teacher", str(tmp_path / "toy-teacher"), "link", "elsewhere/moved"):
        done = shell.gsd("distill", "--teacher", spelling, *rest)
        assert done.returncode == 0, (spelling, done.stderr.decode())
        assert b"nothing to do" in done.stderr
    elsewhere = Shell(tmp_path / "elsewhere").gsd("distill", "--teacher", "../toy-teacher", *rest)
    assert elsewhere.returncode == 0, elsewhere.stderr.decode()

    schedule = tmp_path / "elsewhere" / "moved" / "scheduler_config.json"
    schedule.write_text(schedule.read_text().replace("0.02", "0.03"))
    other = shell.gsd("distill", "--teacher", "elsewhere/moved", *rest)
    assert other.returncode == 2 and b"teacher (toy-teacher -> elsewhere/moved)" in other.stderr
    weights = tmp_path / "toy-teacher" / "diffusion_pytorch_model.safetensors"
    save_file({name: value + 1 for name, value in load_file(weights).items()}, weights, metadata={"format": "pt"})
    retrained = shell.gsd("distill", "--teacher", "toy-teacher", *rest)
    assert retrained.returncode == 2 and b"toy-teacher with other weights" in retrained.stderr
