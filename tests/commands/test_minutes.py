"""gsd distill --minutes: the files and messages of a run by the clock. Its duration is not tested."""

from __future__ import annotations

import json
from pathlib import Path

from gsd_cli.base.launcher import process_age
from gsd_cli.cli.preflight_distill import plan_distill
from gsd_cli.core.distillation.run_folder import count_steps, resume_command
from gsd_cli.options import DistillOptions
from gsd_cli.options.presets import with_preset
from tests.support.shell import DISTILL, Shell


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_a_run_by_the_clock_ends_measured_exported_and_recorded(workshop: Shell) -> None:
    done = workshop.gsd(*DISTILL, "--minutes", "0.15", "-o", "paced")
    assert done.returncode == 0, done.stderr.decode()
    run = workshop.folder / "paced"
    assert done.stdout.decode().split() == ["paced/generator"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    options, card = read(run / "options.json"), read(run / "generator" / "gsd.json")
    steps = rows[-1]["step"]
    assert steps >= 1 and "fd" in rows[-1]
    assert options["total_steps"] == options["lengths"][-1][1] == card["steps"] == steps
    assert card["settings"]["total_steps"] == steps
    assert f"--steps {steps}" in (run / "generator" / "README.md").read_text()
    assert max((run / "checkpoints").glob("step-*")).name == f"step-{steps:08d}"
    # to its own length it is finished; more minutes make it longer
    finished = workshop.gsd(*DISTILL, "--steps", str(steps), "-o", "paced")
    assert "nothing to do" in finished.stderr.decode()
    more = workshop.gsd(*DISTILL, "--minutes", "0.1", "-o", "paced")
    assert more.returncode == 0, more.stderr.decode()
    assert read(run / "options.json")["total_steps"] > steps
    assert read(run / "options.json")["lengths"][: len(options["lengths"])] == options["lengths"]


def test_a_length_that_is_given_is_kept(workshop: Shell) -> None:
    done = workshop.gsd(*DISTILL, "--minutes", "0.02", "--steps", "100000", "-o", "sliced")
    assert done.returncode == 0, done.stderr.decode()
    assert "the same command resumes the run" in done.stderr.decode()
    run = workshop.folder / "sliced"
    assert read(run / "options.json")["total_steps"] == 100_000
    assert "lengths" not in read(run / "options.json")
    assert read(run / "generator" / "gsd.json")["steps"] >= 1


def test_minutes_take_the_place_of_the_presets_length() -> None:
    options = with_preset(DistillOptions(minutes=5))
    assert options.kimg is None
    assert count_steps(options, None) is None
    assert next(plan_distill(options)) == "ddpm-fashion: as many steps of batch 32 as fit into 5 minutes"
    both = with_preset(DistillOptions(minutes=5, steps=10))
    assert count_steps(both, None) == 10


def test_the_resume_command_has_the_settled_length() -> None:
    options = with_preset(DistillOptions(minutes=5, profile=Path("p")))
    assert "--minutes 5" in resume_command(options, Path("run")) and "--profile" not in resume_command(
        options, Path("run")
    )
    settled = resume_command(options.model_copy(update={"minutes": None, "steps": 700}), Path("run"))
    assert "--steps 700" in settled and "minutes" not in settled
    assert "--no-cuda-graphs" in resume_command(with_preset(DistillOptions(cuda_graphs=False)), Path("run"))


def test_a_process_knows_its_age() -> None:
    assert 0 <= process_age() < 1e6
    assert process_age() >= 0
