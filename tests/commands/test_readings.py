"""gsd distill with teachers that do not say how they were trained, and dry runs that refuse what the run refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from gsd_cli.base.storage import ASSETS
from tests.support.shell import DISTILL, Shell

SHORT = ("--steps", "1", "--batch-size", "4", "--eval-samples", "16")


@pytest.fixture
def silent(workshop: Shell, tmp_path: Path) -> Shell:
    """A copy of the toy teacher without its noise schedule, next to nothing."""
    shutil.copytree(workshop.folder / "toy-teacher", tmp_path / "ddpm")
    (tmp_path / "ddpm" / "scheduler_config.json").unlink()
    return Shell(tmp_path)


def test_a_teacher_that_says_nothing_needs_images_or_an_assumption(silent: Shell) -> None:
    distill = ("distill", "--teacher", "ddpm", *SHORT, "--irl", "off", "-o", "run")
    for dry in ((), ("-n",)):
        done = silent.gsd(*distill, *dry)
        assert done.returncode == 3, done.stderr.decode()
        assert b"does not say which noise schedule" in done.stderr and b"--assume" in done.stderr
        assert not done.stdout and not (silent.folder / "run").exists()
    assert silent.gsd(*distill, "--assume", "v,cosine").returncode == 0
    card = json.loads((silent.folder / "run" / "generator" / "gsd.json").read_text())
    assert card["teacher_reading"] == "v,cosine"
    assert json.loads((silent.folder / "run" / "options.json").read_text())["teacher_reading"] == "v,cosine"
    # the run remembers it; another one is another run
    resumed = silent.gsd(*distill, "--steps", "2")
    assert resumed.returncode == 0 and b"read as v,cosine" in resumed.stderr, resumed.stderr.decode()
    other = silent.gsd(*distill, "--assume", "eps,linear")
    assert other.returncode == 2 and b"assume (v,cosine -> eps,linear)" in other.stderr, other.stderr.decode()
    # and so does gsd bench, which opens the teacher again
    bench = silent.gsd("bench", "--model", "run", "--compare", "ddim-1", "--metrics", "time")
    assert bench.returncode == 0, bench.stderr.decode()


def test_images_that_no_reading_denoises_settle_nothing(silent: Shell, workshop: Shell) -> None:
    """The toy teacher was trained for six steps: it has no reading that fits."""
    data = str(workshop.folder / "toy.zip")
    done = silent.gsd("distill", "--teacher", "ddpm", "--data", data, *SHORT, "-o", "run")
    assert done.returncode == 3
    assert b"no known reading of ddpm denoises" in done.stderr and b"--assume" in done.stderr


@pytest.mark.slow
def test_real_images_tell_how_a_teacher_was_trained(shell: Shell) -> None:
    shutil.copytree(ASSETS / "ddpm-fashion", shell.folder / "ddpm")
    schedule = shell.folder / "ddpm" / "scheduler_config.json"
    config = json.loads(schedule.read_text())
    schedule.write_text(json.dumps({key: value for key, value in config.items() if key != "prediction_type"}))
    data = str(ASSETS / "fashion-mnist.zip")
    done = shell.gsd("distill", "--teacher", "ddpm", "--data", data, *SHORT, "--irl", "off", "-o", "run")
    assert done.returncode == 0, done.stderr.decode()
    assert b"denoises best read as eps,linear: error 0.1" in done.stderr
    card = json.loads((shell.folder / "run" / "generator" / "gsd.json").read_text())
    assert card["teacher_reading"] == "eps,linear"
    assert "it was read as eps,linear" in (shell.folder / "run" / "generator" / "README.md").read_text()


@pytest.mark.slow
def test_a_folder_that_says_something_wrong_is_warned_of(shell: Shell) -> None:
    shutil.copytree(ASSETS / "ddpm-fashion", shell.folder / "ddpm")
    schedule = shell.folder / "ddpm" / "scheduler_config.json"
    data = str(ASSETS / "fashion-mnist.zip")
    config = json.loads(schedule.read_text())
    for changes, word in (({}, None), ({"prediction_type": "v_prediction"}, b"better read as eps,linear")):
        schedule.write_text(json.dumps(config | changes))
        done = shell.gsd("distill", "--teacher", "ddpm", "--data", data, *SHORT, "--irl", "off", "-o", f"run{word}")
        assert done.returncode == 0, done.stderr.decode()
        assert (b"better read as" in done.stderr) == bool(word) and (word or b"") in done.stderr


@pytest.mark.parametrize(
    ("damage", "words"),
    [("network", b"a UNet2DModel or "), ("schedule", b"is of a variance-exploding score SDE"),
     ("weights", b"no weights"), ("nothing", b"no such teacher")],
)  # fmt: skip
def test_a_dry_run_refuses_what_the_run_refuses(damage: str, words: bytes, silent: Shell, workshop: Shell) -> None:
    folder = Path(shutil.copytree(workshop.folder / "toy-teacher", silent.folder / "other"))
    if damage == "network":
        (folder / "config.json").write_text('{"_class_name": "QwenImageTransformer2DModel"}')
    elif damage == "schedule":
        (folder / "scheduler_config.json").write_text('{"_class_name": "ScoreSdeVeScheduler", "sigma_max": 80}')
    elif damage == "weights":
        next(folder.glob("*.safetensors")).unlink()
    teacher = "other" if damage != "nothing" else "nowhere"
    run, dry = (silent.gsd("distill", "--teacher", teacher, *SHORT, "-o", "run", *more) for more in ((), ("-n",)))
    assert run.returncode == dry.returncode == 3
    assert words in run.stderr
    assert run.stderr.splitlines()[-2:] == dry.stderr.splitlines()[-2:]


def test_one_teacher_by_its_weights(workshop: Shell, tmp_path: Path) -> None:
    """A bundled teacher, its copy, a part of the copy and a link to it resume one run."""
    for name in ("toy.zip", "toy-features", "toy.toy.npz"):
        source = workshop.folder / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    shutil.copytree(workshop.folder / "toy-teacher", tmp_path / "a")
    shutil.copytree(workshop.folder / "toy-teacher", tmp_path / "elsewhere" / "b")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    shell, words = Shell(tmp_path), [word if word != "toy-teacher" else "{}" for word in DISTILL]

    def again(teacher: str) -> bytes:
        done = shell.gsd(*(word.format(teacher) for word in words), "--steps", "1", "-o", "run")
        assert done.returncode == 0, done.stderr.decode()
        return done.stderr

    again("a")
    for teacher in ("a/", str(tmp_path / "a"), "link", "elsewhere", "elsewhere/b/config.json"):
        assert b"nothing to do" in again(teacher)
