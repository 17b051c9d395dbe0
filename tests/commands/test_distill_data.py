"""The images of a distillation: which are chosen, which are refused, and the commands that use them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from gsd_cli.base.console import Console
from gsd_cli.base.errors import Stopped
from gsd_cli.base.lock import one_at_a_time
from gsd_cli.base.session import Session
from gsd_cli.base.signals import StopRequest
from gsd_cli.base.storage import ASSETS
from gsd_cli.catalogue.registry import TEACHERS
from gsd_cli.compute.distributed import World
from gsd_cli.core.distillation.inputs import choose_data, describe_images
from gsd_cli.core.distillation.open_data import EPOCH, OpenData, add_teacher_samples
from gsd_cli.core.distillation.run_folder import count_steps
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.core.sampling.teacher_samples import TeacherSamples
from gsd_cli.metrics.run_evaluation import build_evaluation, choose_distance
from gsd_cli.options import DistillOptions
from tests.faults.conftest import wait_for
from tests.support import teachers
from tests.support.shell import IMAGES, Shell

BRIEF = ("distill", "--batch-size", "4", "--eval-samples", "16")
FASHION = ASSETS / "fashion-mnist.zip"
SAMPLES = "home/cache/teacher-samples"


class TestChoice:
    """--data, else the data set next to the teacher, else the bundled images, else none."""

    @pytest.fixture
    def fitted(self, tmp_path: Path, toy_archive_path: Path) -> tuple[str, Path]:
        (tmp_path / "toy-teacher").mkdir()
        shutil.copy(toy_archive_path, tmp_path / "toy.zip")
        return str(tmp_path / "toy-teacher"), tmp_path / "toy.zip"

    def test_a_given_file_comes_first(self, fitted: tuple[str, Path]) -> None:
        for teacher in ("ddpm-fashion", fitted[0], "ddpm-cifar10"):
            data = choose_data(DistillOptions(teacher=teacher, data=Path("mine.zip")))
            assert (data.origin, data.shown, data.measured) == ("given", Path("mine.zip"), Path("mine.zip"))

    def test_then_what_prepare_left(self, fitted: tuple[str, Path]) -> None:
        data = choose_data(DistillOptions(teacher=fitted[0]))
        assert (data.origin, data.shown, data.measured) == ("prepared", fitted[1], fitted[1])
        opened = OpenData(data)
        assert opened.epoch == 12
        assert opened.measured is opened.shown  # one file is read once
        fitted[1].unlink()
        assert choose_data(DistillOptions(teacher=fitted[0])).origin == "none"

    def test_then_the_bundled_images_which_are_not_measured_against(self) -> None:
        data = choose_data(DistillOptions())
        assert (data.origin, data.shown, data.measured) == ("bundled", FASHION, None)
        opened = OpenData(data)
        assert opened.shown is not None and len(opened.shown) == 6700
        assert opened.epoch == EPOCH
        assert count_steps(DistillOptions(epochs=2, batch_size=100), opened.epoch) == 2 * EPOCH / 100

    def test_else_nothing(self) -> None:
        data = choose_data(DistillOptions(teacher="ddpm-cifar10"))
        assert (data.origin, data.shown, data.measured) == ("none", None, None)
        opened = OpenData(data)
        assert (opened.shown, opened.measured, opened.epoch) == (None, None, EPOCH)

    def test_the_word_teacher_leaves_what_is_measured(self, fitted: tuple[str, Path]) -> None:
        for teacher, measured, epoch in ((fitted[0], fitted[1], 12), ("ddpm-fashion", None, EPOCH)):
            data = choose_data(DistillOptions(teacher=teacher, data="teacher"))
            assert (data.origin, data.shown, data.measured) == ("teacher", None, measured)
            assert OpenData(data).epoch == epoch

    def test_a_file_may_be_called_teacher(self) -> None:
        data = choose_data(DistillOptions.model_validate({"data": "./teacher"}))
        assert (data.origin, data.shown) == ("given", Path("teacher"))

    def test_only_one_teacher_has_bundled_images(self) -> None:
        assert {name: entry.data for name, entry in TEACHERS.items() if entry.data} == {"ddpm-fashion": FASHION.name}

    def test_each_is_described_in_a_line(self, fitted: tuple[str, Path]) -> None:
        lines = [
            describe_images(choose_data(DistillOptions(teacher=teacher, data=data)), count=6700)
            for teacher, data in (
                ("ddpm-fashion", None), ("ddpm-fashion", Path("x.zip")), (fitted[0], None), ("ddpm-fashion", "teacher"),
                ("ddpm-cifar10", None),
            )
        ]  # fmt: skip
        assert lines == [
            "real images: 6,700 bundled training images (fashion-mnist)",
            "real images: 6,700 from --data, x.zip",
            f"real images: 6,700 next to the teacher, {fitted[1]}",
            "real images: none; the teacher's own 6,700 samples replace them (DPM-Solver++-20, cached)",
            "real images: none (data-free distillation)",
        ]
        unused = describe_images(choose_data(DistillOptions()), shown=False)
        assert "none used" in unused and "no discriminator" in unused


@pytest.fixture
def alone(toy_teacher_folder: Path, tmp_path: Path) -> Shell:
    """The toy teacher without anything next to it."""
    shutil.copytree(toy_teacher_folder, tmp_path / "toy-teacher")
    return Shell(tmp_path)


def gsd(shell: Shell, *arguments: str, code: int = 0) -> str:
    done = shell.gsd(*BRIEF, *arguments)
    text = done.stderr.decode()
    assert done.returncode == code, text
    assert "Traceback" not in text
    return text


def card(shell: Shell, run: str) -> dict:
    return json.loads((shell.folder / run / "generator" / "gsd.json").read_text())


WITH_SAMPLES = ("--teacher", "toy-teacher", "--data", "teacher", "--teacher-samples", "24")


def test_samples_of_the_teacher_replace_real_images(alone: Shell) -> None:
    command = (*WITH_SAMPLES, "--adversarial", "0.01", "--steps", "2")
    said = gsd(alone, *command, "-o", "run")
    assert "none; the teacher's own 24 samples replace them" in said
    assert "24 images are few" in said
    assert "FD-teacher is measured against the teacher's own samples, not against real images" in said
    made = card(alone, "run")
    assert made["figure_name"] == "FD-teacher to the teacher's samples" and made["figures"]["fd"] > 0
    assert "FD-teacher to the teacher's samples" in (alone.folder / "run/generator/README.md").read_text()
    assert json.loads((alone.folder / "run/options.json").read_text())["real_images"] == "24 teacher"
    (kept,) = (alone.folder / SAMPLES).glob("*.zip")
    assert {path.name for path in kept.parent.iterdir()} <= {kept.name, f".{kept.name}.lock"}

    before = (kept.stat().st_mtime_ns, kept.read_bytes())
    gsd(alone, *command, "-o", "again")
    assert (kept.stat().st_mtime_ns, kept.read_bytes()) == before  # the second run made none
    assert card(alone, "again")["figures"] == made["figures"]


@pytest.mark.fault(5, "the teacher's samples in the cache cut")
def test_damaged_samples_are_made_again(alone: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = load_teacher(str(alone.folder / "toy-teacher"))
    options = DistillOptions(data="teacher", teacher_samples=16, cache_dir=alone.folder / "cache")

    def samples(seed: int) -> Path:
        given = options.model_copy(update={"seed": seed})
        session = Session.start(given, Console())
        data = add_teacher_samples(OpenData(choose_data(given)), given, teacher, torch.device("cpu"), session)
        assert data.choice.shown is not None and data.measured is None
        return data.choice.shown

    path = samples(0)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "made again" not in capsys.readouterr().err
    assert samples(0) == path
    assert f"warning: {path}" in (said := capsys.readouterr().err) and "the samples are made again" in said
    assert path.read_bytes() == whole
    assert samples(1).read_bytes() != whole
    assert len(list(path.parent.glob("*.zip"))) == 2


def test_real_images_remain_the_reference(workshop: Shell, alone: Shell) -> None:
    """Distances are measured to real images next to the teacher, whatever the discriminator sees."""
    for name in ("toy.zip", "toy-features"):
        source = workshop.folder / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, alone.folder / name)
    said = gsd(alone, *WITH_SAMPLES, "--adversarial", "0.01", "--steps", "1", "-o", "run")
    assert "FD-toy is measured against " in said and "toy.zip" in said
    assert card(alone, "run")["figure_name"] == "FD-toy"
    said = gsd(alone, *WITH_SAMPLES, "--adversarial", "off", "--steps", "1", "-o", "unused")
    assert "nothing uses the teacher's samples" in said


def test_the_bundled_images_are_for_the_discriminator_alone(shell: Shell) -> None:
    said = gsd(shell, "--steps", "1", "--adversarial", "0.01", "-o", "run")
    assert "real images: 6,700 bundled training images (fashion-mnist)" in said
    assert card(shell, "run")["figure_name"] == "FD-fashion"


def test_distances_stay_those_to_all_training_images(tmp_path: Path) -> None:
    teacher, device = load_teacher("ddpm-fashion"), torch.device("cpu")
    for chosen in (None, "teacher"):
        options = DistillOptions(data=chosen)
        data = OpenData(choose_data(options))
        distance = choose_distance(options, data, teacher, device)
        assert (distance.against, distance.figure) == ("features", "FD-fashion")
        found = build_evaluation(options, teacher, data, distance, tmp_path, device, World()).reference
        assert found is not None and found.n == 60_000


def prepare(shell: Shell, name: str, *arguments: str) -> None:
    done = shell.gsd("prepare", str(IMAGES), "-o", name, *arguments)
    assert done.returncode == 0, done.stderr.decode()


def refusal(done: subprocess.CompletedProcess[bytes]) -> str:
    text = done.stderr.decode()
    assert done.returncode == 3, text
    assert "error: " in text and "hint: " in text and "Traceback" not in text
    return text


@pytest.mark.fault(11, "data sets that do not fit the teacher, or cannot be read")
def test_what_does_not_fit_is_refused_before_anything_is_written(alone: Shell) -> None:
    net = teachers.unet(teachers.SMALL, num_class_embeds=10)
    teachers.flat(alone.folder / "classes", net)
    prepare(alone, "large.zip", "--size", "24")
    prepare(alone, "colour.zip", "--size", "16", "--no-grey")
    prepare(alone, "good.zip", "--size", "16")
    (alone.folder / "photos").mkdir()
    shutil.copy(ASSETS / "examples" / "bag.png", alone.folder / "photos")
    done = alone.gsd("prepare", "photos", "--size", "16", "-o", "plain.zip")
    assert done.returncode == 0, done.stderr.decode()
    raw = bytearray((alone.folder / "good.zip").read_bytes())
    middle = raw.index(b"IDAT", len(raw) // 2)
    raw[middle + 20 : middle + 60] = bytes(40)
    (alone.folder / "damaged.zip").write_bytes(raw)
    before = sorted(alone.folder.rglob("*"))
    for teacher, data, words in (
        ("toy-teacher", "large.zip", "(1, 24, 24)"),
        ("toy-teacher", "colour.zip", "(3, 16, 16)"),
        ("toy-teacher", "damaged.zip", "cannot read the data set damaged.zip"),
        ("toy-teacher", "missing.zip", "no such data set: missing.zip"),
        ("toy-teacher", "teachr", "did you mean teacher?"),
        ("classes", "plain.zip", "no labels"),
    ):
        command = ("--teacher", teacher, "--data", data, "--adversarial", "0.01", "--steps", "1", "-o", "run")
        assert words in refusal(alone.gsd(*BRIEF, *command)), data
    fits = ("--teacher", "classes", "--data", "good.zip", "--adversarial", "0.01", "--steps", "1", "-o", "run")
    assert sorted(alone.folder.rglob("*")) == before
    assert "100 images are few" in gsd(alone, *fits)


def test_a_latent_teacher_takes_images_of_its_autoencoder(shell: Shell) -> None:
    teachers.latent_pipeline(shell.folder / "ldm", teachers.unet(teachers.LATENT))
    prepare(shell, "colour.zip", "--size", "32", "--no-grey")
    prepare(shell, "latent.zip", "--size", "16", "--no-grey")
    command = ("--teacher", "ldm", "--adversarial", "0.01", "--steps", "2")
    gsd(shell, *command, "--data", "colour.zip", "-o", "run")
    last = json.loads((shell.folder / "run/metrics.jsonl").read_text().splitlines()[-1])
    assert last["discriminator_loss"] > 0
    refused = shell.gsd(*BRIEF, *command, "--data", "latent.zip", "-o", "no")
    assert "the model makes (3, 32, 32)" in refusal(refused)
    said = gsd(shell, *command, "--data", "teacher", "--teacher-samples", "16", "-o", "own")
    assert "16 samples replace them" in said


def test_a_resumed_run_says_that_its_images_changed(toy_archive_path: Path, alone: Shell) -> None:
    shutil.copy(toy_archive_path, alone.folder / "mine.zip")
    command = ("--teacher", "toy-teacher", "--adversarial", "0.01", "--lr-decay", "0", "-o", "run", "--data")
    assert "began with" not in gsd(alone, *command, "mine.zip", "--steps", "1")
    said = gsd(alone, *command, "teacher", "--teacher-samples", "24", "--steps", "2")
    assert "the run began with other real images: 12 given, now 24 teacher" in said


def test_a_dry_run_says_which_images_and_makes_none(alone: Shell) -> None:
    done = alone.gsd(*BRIEF, *WITH_SAMPLES, "-o", "run", "-n")
    assert done.returncode == 0, done.stderr.decode()
    text = done.stdout.decode()
    assert 'data = "teacher"  # --data' in text
    assert "makes 24 teacher samples (DPM-Solver++-20) if they are used and not in the cache" in text
    assert not (alone.folder / "home").exists() and not (alone.folder / "run").exists()


@pytest.mark.fault(4, "a file where the cache should be")
def test_a_cache_that_cannot_be_written_is_an_error_before_the_work(alone: Shell) -> None:
    (alone.folder / "file").touch()
    command = (*WITH_SAMPLES, "--steps", "1", "-o", "run", "--cache-dir", "file")
    text = gsd(alone, *command, code=8)
    assert "--cache-dir" in text and "teacher samples (" not in text
    assert not os.path.exists(alone.folder / "run")


@pytest.mark.fault(9, "two processes that want one teacher's samples")
def test_two_processes_may_want_the_same_samples(alone: Shell) -> None:
    both = [alone.running(*BRIEF, *WITH_SAMPLES, "--steps", "1", "-o", run) for run in ("one", "two")]
    for running in both:
        done = running.wait()
        assert done.returncode == 0, done.stderr.decode()
    assert card(alone, "one")["figures"] == card(alone, "two")["figures"]
    assert len(list((alone.folder / SAMPLES).glob("*.zip"))) == 1
    assert not list((alone.folder / SAMPLES).glob("*/"))  # no batches are left


def test_a_process_that_waits_for_another_can_be_stopped(alone: Shell) -> None:
    options = DistillOptions(data="teacher", teacher_samples=16, cache_dir=alone.folder / "cache")
    samples = TeacherSamples(load_teacher(str(alone.folder / "toy-teacher")), 16, 0, alone.folder / "cache")
    stop = StopRequest()
    stop.follow()
    session = Session.start(options, Console(), stop)
    with one_at_a_time(samples.path, lambda: None), pytest.raises(Stopped):
        add_teacher_samples(OpenData(choose_data(options)), options, samples.teacher, torch.device("cpu"), session)
    assert not samples.path.exists()


@pytest.mark.fault(2, "a signal while the teacher is sampled")
def test_interrupted_sampling_is_resumed(alone: Shell) -> None:
    """SIGINT between two batches: exit 130, the command to resume is printed, and the batches are kept."""
    command = ("--teacher", "toy-teacher", "--data", "teacher", "--teacher-samples", "400", "--steps", "1", "-o", "run")
    running = alone.running(*BRIEF, *command)
    wait_for(lambda: list((alone.folder / SAMPLES).glob("*/*.zip")), running)
    running.send(signal.SIGINT)
    done = running.wait()
    assert done.returncode == 130, done.stderr.decode()
    assert b"resume with: gsd distill" in done.stderr and b"--data teacher" in done.stderr
    assert not list((alone.folder / SAMPLES).glob("*.zip"))
    assert list((alone.folder / SAMPLES).glob("*/*.zip"))
    assert not (alone.folder / "run").exists()
