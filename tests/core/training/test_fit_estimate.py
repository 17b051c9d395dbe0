"""How long --fit-teacher takes: fewer steps on a CPU, and a time from timed passes."""

from __future__ import annotations

import pytest
import torch

from gsd_cli.core.training import fit_estimate
from gsd_cli.core.training.fit_estimate import FEW, MANY, describe_fit, seconds_per_step
from gsd_cli.options import FitSettings, PrepareOptions
from gsd_cli.options.prepare import TEACHER_STEPS, TEACHER_STEPS_ON_CPU, resolve_fit_settings
from tests.support.shell import Shell

CPU = torch.device("cpu")


def test_a_cpu_takes_fewer_steps_unless_they_are_given() -> None:
    options = PrepareOptions(source="x", fit_teacher="small")
    assert resolve_fit_settings(options, on_cpu=True).steps == TEACHER_STEPS_ON_CPU
    assert resolve_fit_settings(options, on_cpu=False).steps == TEACHER_STEPS == FitSettings().steps
    given = options.model_copy(update={"fit_steps": 7})
    assert resolve_fit_settings(given, on_cpu=True).steps == resolve_fit_settings(given, on_cpu=False).steps == 7


def test_help_names_the_defaults_that_are_used() -> None:
    shown = PrepareOptions.model_fields["fit_steps"].description or ""
    assert f"{TEACHER_STEPS:,} for a teacher ({TEACHER_STEPS_ON_CPU:,} on a CPU" in shown
    lr = PrepareOptions.model_fields["fit_lr"].description or ""
    assert lr.endswith(f"default: {FitSettings().lr:g}.")


def test_the_time_of_a_batch_is_a_line_through_two_smaller_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def seconds_of(net: object, batch: int, *_: object) -> float:
        asked.append(batch)
        return 0.5 + 0.1 * batch

    monkeypatch.setattr(fit_estimate, "_seconds_of", seconds_of)
    settings = FitSettings(architecture="tiny", batch_size=64)
    assert seconds_per_step(settings, (1, 16, 16), CPU) == pytest.approx(0.5 + 6.4)
    assert seconds_per_step(settings, (1, 16, 16), CPU, processes=4) == pytest.approx(0.5 + 1.6)
    assert set(asked) == {FEW, MANY}
    assert seconds_per_step(FitSettings(batch_size=4), (1, 16, 16), CPU) == pytest.approx(0.9)


def test_a_real_step_is_timed() -> None:
    assert 0 < seconds_per_step(FitSettings(architecture="tiny", batch_size=4), (3, 16, 16), CPU) < 100


def test_it_is_said_in_hours() -> None:
    text = describe_fit(FitSettings(steps=3000), 2.0, CPU)
    assert text == (
        "a small teacher, 3,000 steps of batch 64 = 192,000 images: about 1.7 hours on cpu (from one timed step)"
    )


def test_a_dry_run_and_a_run_say_it(shell: Shell) -> None:
    fit = ("prepare", "photos", "--size", "16", "--fit-teacher", "tiny", "--device", "cpu")
    (shell.folder / "photos").mkdir()
    dry = shell.gsd(*fit, "-n")
    assert dry.returncode == 0, dry.stderr.decode()
    assert "3,000 steps of batch 64 = 192,000 images: about " in dry.stdout.decode()
