"""The clock of a run: lengths that are settled, ends that are kept. Time is a number that the tests move."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.training.checkpoint import CheckpointStore
from gsd_cli.core.training.log import read_metrics
from gsd_cli.core.training.loop import train
from gsd_cli.core.training.pace import LEAN, MEASURED, SETTLE, TOLERANCE, UNSETTLED, WARM_UP, Allowance, Pace
from gsd_cli.core.training.report import Cadence, Metrics, Report
from gsd_cli.options import DistillSettings

COSTS = {"evaluation": 4.0, "checkpoint": 1.0, "export": 2.0}


class Machine:
    """A clock, and steps that take given seconds on it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def drive(seconds: float, step_seconds: object, decay: float = 0.5) -> tuple[Pace, list[tuple[int, int]], int, float]:
    """A paced session by hand: the settlements, the steps done and when it ended."""
    clock, found = Machine(), list[tuple[int, int]]()
    pace = Pace(seconds, 0.0, settles=True, on_length=lambda step, length: found.append((step, length)), clock=clock)
    pace.costs |= COSTS
    step = 0
    while step < pace.length:
        taken = step_seconds(clock.now) if callable(step_seconds) else step_seconds
        clock.now += taken
        step += 1
        pace.stepped(taken)
        if pace.over:
            pace.follow(step, step)
        elif (length := pace.settle(step, 0.0)) is not None:
            pace.follow(step, length)
    return pace, found, step, clock.now


@pytest.mark.parametrize(("seconds", "step_seconds"), [(600, 0.5), (600, 0.02), (300, 2.0)])
def test_on_a_steady_machine_a_length_is_settled_once_and_early(seconds: float, step_seconds: float) -> None:
    pace, found, steps, ended = drive(seconds, step_seconds)
    assert len(found) == 1
    at, length = found[0]
    assert at <= max(WARM_UP + MEASURED, SETTLE * seconds / step_seconds + 1) < 0.1 * length
    assert steps == length
    # nearly all of the time but what the end takes
    assert 0.97 * seconds - 2 * step_seconds <= ended + pace.reserve <= seconds


@pytest.mark.parametrize("change", [0.5, 2.0, 4.0])
def test_where_the_rate_changes_the_length_follows_and_the_end_is_kept(change: float) -> None:
    pace, found, steps, ended = drive(1000, lambda now: 0.2 if now < 400 else 0.2 * change)
    assert len(found) > 1
    assert ended + pace.reserve <= 1000 + 2 * 0.2 * change
    assert ended + pace.reserve >= 1000 * (1 - 2 * TOLERANCE)
    # the learning rate was near its end when the steps were
    assert found[-1][1] - steps <= TOLERANCE * steps


def test_a_late_slump_does_not_break_the_promise() -> None:
    pace, _, _, ended = drive(1000, lambda now: 0.2 if now < 900 else 6.0)
    assert ended + sum(COSTS.values()) + COSTS["export"] <= 1000
    assert pace.length < UNSETTLED


def test_minutes_too_few_for_anything_give_one_step() -> None:
    _, found, steps, _ = drive(5.0, 3.0)
    assert (steps, found[-1]) == (1, (1, 1))


def test_a_resumed_session_knows_its_rate() -> None:
    clock = Machine()
    first = Pace(600, 0.0, settles=True, clock=clock)
    for _ in range(20):
        first.stepped(0.5)
    first.took("evaluation", 3.0)
    clock.now = 10_000.0
    second = Pace(600, clock.now, settles=True, clock=clock)
    second.know(first.known())
    length = second.settle(1000, 0.0)
    assert length == 1000 + int(LEAN * (600 - second.reserve) / 0.5) - 1
    assert second.costs["evaluation"] == 3.0
    assert Pace(600, 0.0, settles=False, clock=clock).settle(1000, 0.0) is None


def test_an_allowance() -> None:
    allowed = Allowance(0.05)
    assert allowed.affords(0.0)  # nothing is known of it yet
    allowed.took(3.0, counted=False)
    assert not allowed.affords(59.0) and allowed.affords(60.0)
    allowed.took(3.0)
    assert not allowed.affords(119.0) and allowed.affords(120.0)
    assert Allowance().affords(0.0)


# -- in the loop --------------------------------------------------------------------------------


class Timed:
    """A task whose steps and evaluations take time on a clock that stands in for the real one."""

    batch_size = 4

    def __init__(self, clock: Machine, step: float, evaluation: float):
        self.clock, self.costs, self.evaluated = clock, (step, evaluation), list[int]()
        self.done = torch.zeros(1)

    def step(self, step: int) -> dict[str, float | Tensor]:
        self.clock.now += self.costs[0]
        self.done += 1
        return {"loss": torch.tensor(1.5), "other": 2.0}

    def evaluate(self, step: int) -> dict[str, float]:
        self.clock.now += self.costs[1]
        self.evaluated.append(step)
        return {"fd": 1.0}

    def tensors(self) -> dict[str, Tensor]:
        return {"done": self.done}

    def load(self, tensors: dict[str, Tensor]) -> None:
        self.done = tensors["done"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The clock of the loop."""
    machine = Machine()
    for module in ("loop", "report", "pace", "checkpoint"):
        monkeypatch.setattr(f"gsd_cli.core.training.{module}.time.monotonic", machine)
    return machine


def paced(clock: Machine, task: Timed, run: Path, seconds: float, **cadence: float) -> tuple[Pace, list[Report]]:
    pace = Pace(seconds, clock.now, settles=True, clock=clock)
    cadence = {"evaluate_steps": 50, **cadence}
    reports = []
    for report in train(task, None, run, Cadence(**cadence), pace=pace):
        reports.append(report)
        clock.now += 3.0 * report.rehearse  # what an export takes
    return pace, reports


def test_a_paced_run_ends_in_time_measured_and_saved(clock: Machine, tmp_path: Path) -> None:
    task = Timed(clock, 1.0, 5.0)
    pace, reports = paced(clock, task, tmp_path, 600, evaluate_share=0.05)
    last = reports[-1]
    assert last.step == last.total == pace.length == task.evaluated[-1]
    assert 540 < clock.now <= 600 - 2 * 3.0  # the caller exports twice
    assert [r.step for r in reports if r.rehearse] == [WARM_UP]
    assert next(r.step for r in reports if r.settled) < 0.1 * last.step
    assert pace.costs["export"] == 3.0
    checkpoint, _ = CheckpointStore(tmp_path / "checkpoints").latest()
    assert checkpoint is not None and checkpoint.step == last.step
    assert checkpoint.state["step_seconds"] == pytest.approx(1.0, rel=0.1)


def test_steps_that_prepare_recordings_do_not_count(clock: Machine, tmp_path: Path) -> None:
    """Six slow steps would settle a tenth of the length that fits."""

    class Slow(Timed):
        def __init__(self, *costs: Any):
            super().__init__(*costs)
            self.rehearsing, self.notes = True, ["news"]

        def step(self, step: int) -> dict[str, float | Tensor]:
            self.rehearsing = step < 6
            self.clock.now += 10.0 * self.rehearsing
            return super().step(step)

    _, reports = paced(clock, Slow(clock, 1.0, 5.0), tmp_path, 600, evaluate_share=0.05)
    assert [note for report in reports for note in report.notes].count("news") == 1
    first = next(r for r in reports if r.settled)
    assert first.total == pytest.approx(reports[-1].total, rel=0.1)
    assert clock.now <= 600


def test_a_given_length_is_kept_and_the_run_goes_on(clock: Machine, tmp_path: Path) -> None:
    task = Timed(clock, 1.0, 1.0)
    reports = list(train(task, 100, tmp_path, Cadence(50), pace=Pace(60, 0.0, settles=False, clock=clock)))
    last = reports[-1]
    assert last.over and last.total == 100 and 20 < last.step < 60
    assert task.evaluated[-1] == last.step
    again = Timed(clock, 1.0, 1.0)
    assert [r.step for r in train(again, 100, tmp_path, Cadence(50))] == list(range(last.step + 1, 101))
    assert again.done.item() == 100


def test_evaluations_take_no_more_than_their_share(clock: Machine, tmp_path: Path) -> None:
    task = Timed(clock, 1.0, 10.0)
    reports = list(train(task, 1000, tmp_path, Cadence(20, evaluate_share=0.05)))
    assert task.evaluated == [0, *range(200, 1000, 200), 1000]
    assert sum("less often" in note for report in reports for note in report.notes) == 1
    freely = Timed(clock, 1.0, 0.1)
    list(train(freely, 100, tmp_path / "freely", Cadence(20, evaluate_share=0.05)))
    assert freely.evaluated == [0, 20, 40, 60, 80, 100]


def test_rates_are_of_the_steps_alone(clock: Machine, tmp_path: Path) -> None:
    list(train(Timed(clock, 0.5, 7.0), 30, tmp_path, Cadence(15)))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 10, 15, 20, 30]
    assert [row.get("images_per_second") for row in rows] == [None, 8.0, 8.0, 8.0, 8.0]
    assert all(row["peak_memory"] > 1e7 for row in rows[1:])
    assert rows[1]["loss"] == 1.5 and rows[1]["other"] == 2.0


def test_scalars_on_a_device_are_read_when_they_are_written(
    clock: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gsd_cli.core.training.report._waits", lambda value: isinstance(value, torch.Tensor))
    seen = [r.metrics.get("loss", math.nan) for r in train(Timed(clock, 1.0, 0.0), 12, tmp_path, Cadence(100))]
    assert [math.isnan(loss) for loss in seen] == [True] * 9 + [False] * 3


class Ticking:
    """A distillation whose steps take a second each on the clock."""

    def __init__(self, task: Distillation, clock: Machine):
        self.task, self.clock, self.batch_size = task, clock, task.batch_size
        self.tensors, self.load, self.evaluate = task.tensors, task.load, task.evaluate

    def step(self, step: int) -> Metrics:
        self.clock.now += 1.0
        return self.task.step(step)


@pytest.mark.slow
def test_a_run_settled_once_is_the_run_of_that_many_steps(
    clock: Machine, tmp_path: Path, toy_teacher: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = DistillSettings(batch_size=4, lr_decay=0.5)

    def make(total: int) -> Distillation:
        return Distillation(toy_teacher, settings, total, torch.device("cpu"), lambda *_: {})

    task, lengths = make(UNSETTLED), list[int]()

    def settle(step: int, length: int) -> None:
        lengths.append(length)
        task.set_length(length)

    # fewer steps are timed, so that a short run is settled before a tenth of it, where the isometric term begins
    monkeypatch.setattr("gsd_cli.core.training.pace.WARM_UP", 1)
    monkeypatch.setattr("gsd_cli.core.training.pace.MEASURED", 1)
    pace = Pace(46, 0.0, settles=True, on_length=settle, clock=clock)
    pace.costs |= COSTS
    *_, last = train(Ticking(task, clock), None, tmp_path / "paced", Cadence(1000), pace=pace)
    assert lengths == [last.step] and last.step > 20
    straight = make(last.step)
    *_, same = train(straight, last.step, tmp_path / "straight", Cadence(1000))
    assert same.step == last.step
    assert all(torch.equal(value, straight.tensors()[name]) for name, value in task.tensors().items())
