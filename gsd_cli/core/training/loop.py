"""The training loop: it can be stopped and resumed at any step.

A `Task` supplies one step and its state. `train` runs it, writes checkpoints and metrics, counts skipped steps, and
yields a `Report` after each step. Randomness is a function of (seed, step), so on a CPU a resumed run repeats an
uninterrupted one bit for bit. Only which evaluations are made depends on the clock, if they may take only a share of
the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from gsd_cli.base.lock import exclusive
from gsd_cli.catalogue.run_layout import CHECKPOINTS, METRICS_LOG
from gsd_cli.compute.device import synchronize
from gsd_cli.compute.distributed import World
from gsd_cli.compute.memory import peak_memory
from gsd_cli.core.training.checkpoint import CheckpointStore, CheckpointWriter
from gsd_cli.core.training.log import MetricsLog
from gsd_cli.core.training.pace import UNSETTLED, Allowance, Pace
from gsd_cli.core.training.report import Cadence, Metrics, Report, StepCounter
from gsd_cli.core.training.watchdog import review


class Task(Protocol):
    """What a training must provide: five members. It may have others: a `device`, if it does not compute on the CPU;
    `rehearsing`, whether the last step was slower than most will be; `notes`, a list of news for the user, which is
    printed and cleared; `sharded`, whether `tensors` must be called in all processes together."""

    batch_size: int
    """Images per step, of all processes together."""

    def step(self, step: int) -> Metrics:
        """Do step number `step`, counted from 0, and return its metrics.

        A network whose update is not finite must keep its weights. The step counts as skipped if the metric `skipped`
        is 1 or one whose name contains `loss` is not finite.
        """

    def evaluate(self, step: int) -> dict[str, float]:
        """Measure the network after `step` steps, and write sample images; may return nothing."""

    def tensors(self) -> dict[str, Tensor]:
        """The state to save."""

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave."""


def train(
    task: Task,
    total: int | None,
    run: Path,
    cadence: Cadence,
    should_stop: Callable[[], bool] = lambda: False,
    world: World | None = None,
    pace: Pace | None = None,
    doing: Callable[[str], None] = lambda activity: None,
) -> Iterator[Report]:
    """Train `task` for `total` steps in folder `run`, from its newest intact checkpoint if there is one.

    Yields a Report per step. total: None leaves the length to `pace`, which also ends a session whose time is up.
    `should_stop() == True` in any process of `world` ends the session, with its state saved. All processes read the
    checkpoint and evaluate together; the main one writes. Checkpoints are written in a thread; all are complete
    when this ends. doing: given what is done between steps, and "" when it is over. Raises GsdError: exit 6 if the
    loss stays non-finite, exit 2 if another process trains in `run`.
    """
    world = world or World()
    with ExitStack() as held:
        if world.main:
            held.enter_context(exclusive(run))
        loop = _Loop(task, total, run, cadence, world, pace, held, doing)
        while loop.at.step < loop.at.total:
            report = loop.advance(should_stop)
            begun = time.monotonic()
            yield report
            loop.count_caller(report, time.monotonic() - begun)
            if loop.stopping:
                return


class _Loop:
    """One session of a training: what happens around each step, and the time it takes."""

    def __init__(
        self, task: Task, total: int | None, run: Path, cadence: Cadence, world: World, pace: Pace | None,
        held: ExitStack, doing: Callable[[str], None],
    ):  # fmt: skip
        self.doing = doing
        self.task, self.cadence, self.world, self.pace = task, cadence, world, pace
        store = CheckpointStore(run / CHECKPOINTS)
        self.folder = store.folder
        self.at, self.notes = _restore(task, store, UNSETTLED if total is None else total, pace)
        world.wait()  # all have read the checkpoint before anything is written
        self.writer = held.enter_context(CheckpointWriter(store)) if world.main else None
        self.log = MetricsLog(run / METRICS_LOG, self.at.step) if world.main else None
        self.evaluations, self.saves = Allowance(cadence.evaluate_share), Allowance(cadence.checkpoint_share)
        self.measured = self.at.step // cadence.evaluate_steps
        self.stopping = self.rehearsed = self.warned = self.measuring = False
        self.together: bool = world.size > 1 and getattr(task, "sharded", False)
        self.outside, self._timed_from = 0.0, time.monotonic()
        self._timed_steps = self.at.step
        if self.at.step == 0:
            first = self._evaluate()
            if self.log is not None:
                self.log.append({"step": 0, "images": 0, **first})
        self._restart_timer()
        self._agree(stop=False)

    def advance(self, should_stop: Callable[[], bool]) -> Report:
        """One step, and what is due after it: metrics, an evaluation, a checkpoint."""
        at, pace = self.at, self.pace
        step = at.step + 1
        unsettled = pace is not None and pace.settles and at.total == UNSETTLED
        regular = step % self.cadence.log_steps == 0 or step == at.total
        look = regular or self._due(step) or unsettled
        begun = time.monotonic()
        metrics = self.task.step(at.step)
        if look:
            self._synchronize()
        at.add(metrics, time.monotonic() - begun, read=look)
        if regular or (at.up_to_date and not look):  # in all processes at the same step
            at.check(self.folder)
        if look and pace is not None:
            self._tell_pace()
        over = self._agree(stop=should_stop())
        last = at.step == at.total
        evaluation = self._log(measure=last or over or self.measuring)
        due, rehearse = self._agree_to_save()
        rehearse = rehearse and not (last or self.stopping)
        if due or last or self.stopping or rehearse:
            self._save()
        news: list[str] = getattr(self.task, "notes", [])
        notes, self.notes = [*self.notes, *news], []
        news.clear()
        return at.report(self.task.batch_size, evaluation, notes, rehearse=rehearse, over=over)

    def count_caller(self, report: Report, seconds: float) -> None:
        """Take into account the seconds that the caller spent on a report."""
        if self.writer is not None:
            self.writer.check()
        if report.rehearse or report.evaluation:  # otherwise it is a part of the step
            self.outside += seconds
        if report.rehearse and self.pace is not None:
            self.pace.took("export", seconds)
            begun = time.monotonic()
            if self.writer is not None:
                self.writer.wait()  # at the end no steps run next to it
                self.pace.took("checkpoint", self.writer.seconds or 0.0)
            self.outside += time.monotonic() - begun

    def _agree(self, *, stop: bool) -> bool:
        """Agree on what all processes do next. Any of them may stop the run. The main one decides the length, the end
        of the time, and whether to evaluate now: only its clock counts. Returns whether the time is up."""
        at, pace, length, over = self.at, self.pace, 0, False
        if pace is not None and self.world.main:
            over = at.step > at.first and pace.over
            settled = pace.settle(at.step, self._overhead()) if self.rehearsed or at.step == at.first else None
            length = (at.step if over and pace.settles else settled) or 0
        self.measuring = self.world.main and self._due(at.step)
        if self.world.size > 1:
            agreed = self.world.total(
                float(stop), float(self.world.main * length), float(self.world.main * over), float(self.measuring)
            )
            stop, length, over = agreed[0] > 0, round(agreed[1]), agreed[2] > 0
            self.measuring = agreed[3] > 0
        if pace is not None and length:
            at.total = length
            pace.follow(at.step, length)
        self.stopping = stop or over
        return over

    def _overhead(self) -> float:
        """Seconds that evaluations and checkpoints will take per second of steps."""
        assert self.pace is not None
        step, costs, cadence = self.pace.step_seconds, self.pace.costs, self.cadence
        if not step:
            return 0.0
        measuring = costs.get("evaluation", 0.0) / (cadence.evaluate_steps * step)
        saving = self.saves.last / max(cadence.checkpoint_seconds, step)
        return min(measuring, cadence.evaluate_share) + min(saving, cadence.checkpoint_share)

    def _rehearse(self) -> bool:
        """Whether to do now what is done at the end, to time it: once, early in a paced run, before it has a length."""
        if self.rehearsed or self.pace is None or not self.pace.warm:
            return False
        self.rehearsed = True
        return True

    def _agree_to_save(self) -> tuple[bool, bool]:
        """Whether a checkpoint is due, and whether to rehearse the end. Where the state is gathered from all processes,
        they must save together, so the clock of the main one decides."""
        seconds, at = self.cadence.checkpoint_seconds, self.at
        flags = at.unsaved_seconds > seconds and self.saves.affords(at.step_seconds), self._rehearse()
        if not self.together:
            return flags
        due, rehearse = self.world.total(*(float(self.world.main and flag) for flag in flags))
        return due > 0, rehearse > 0

    def _tell_pace(self) -> None:
        assert self.pace is not None
        steps = self.at.step - self._timed_steps
        seconds = time.monotonic() - self._timed_from - self.outside
        if steps and not getattr(self.task, "rehearsing", False):
            self.pace.stepped(seconds, steps)
        self._restart_timer()

    def _restart_timer(self) -> None:
        self.outside, self._timed_from, self._timed_steps = 0.0, time.monotonic(), self.at.step

    def _due(self, step: int) -> bool:
        """Whether an evaluation is asked for after `step` steps, and affordable."""
        wished = step // self.cadence.evaluate_steps > self.measured
        affordable = self.evaluations.affords(self.at.step_seconds)
        if wished and not affordable and not self.warned:
            self.warned = True
            share = self.cadence.evaluate_share
            self.notes.append(f"evaluations are made less often than asked for: they may take {share:.0%} of the time")
        return wished and affordable

    def _log(self, *, measure: bool) -> dict[str, float]:
        """Evaluate if `measure`, all processes together, and log metrics if they are due. Returns the evaluation."""
        at, evaluation = self.at, {}
        if measure:
            self._read()
            rate = at.rate(self.task.batch_size)
            evaluation = self._evaluate()
        elif at.step % self.cadence.log_steps == 0:
            rate = at.rate(self.task.batch_size)
        else:
            return {}
        if self.log is None:
            return evaluation
        row = {"step": at.step, "images": at.step * self.task.batch_size, "skipped": at.skipped}
        speed = {"images_per_second": float(f"{rate:.5g}"), "peak_memory": peak_memory(_device(self.task))}
        self.log.append({**row, **at.metrics, **speed, **evaluation})
        if evaluation:
            self.notes += review(self.log.rows)
        return evaluation

    def _evaluate(self) -> dict[str, float]:
        at, begun = self.at, time.monotonic()
        self.doing("evaluating")
        found = self.task.evaluate(at.step)
        self._synchronize()
        self.doing("")
        seconds = time.monotonic() - begun
        self.measured = at.step // self.cadence.evaluate_steps
        self.evaluations.took(seconds, counted=at.step > 0)
        self.outside += seconds
        if self.pace is not None:
            self.pace.took("evaluation", seconds)
        return found

    def _save(self) -> None:
        self._read()
        # a run would resume from it: save only after a step that was finite
        if self.at.bad or (self.writer is None and not self.together):
            return
        begun, known = time.monotonic(), {} if self.pace is None else self.pace.known()
        state = {"skipped": self.at.skipped, "seconds": self.at.elapsed, **known}
        self.doing("saving a checkpoint")
        tensors = self.task.tensors()
        if self.writer is not None:
            self.writer.save(self.at.step, tensors, state)
        self.doing("")
        self.at.saved = self.at.now
        self.saves.took(time.monotonic() - begun)
        self.outside += self.saves.last

    def _read(self) -> None:
        self._synchronize()
        self.at.read()

    def _synchronize(self) -> None:
        synchronize(_device(self.task))


def _device(task: Task) -> torch.device:
    device: torch.device = getattr(task, "device", torch.device("cpu"))
    return device


def _restore(task: Task, store: CheckpointStore, total: int, pace: Pace | None) -> tuple[StepCounter, list[str]]:
    """Load the newest intact checkpoint into the task. Returns the progress of the run, and notes for the user."""
    checkpoint, damaged = store.latest()
    notes = [f"damaged checkpoint skipped: {path}" for path in damaged]
    if checkpoint is None:
        return StepCounter(total), notes
    task.load(checkpoint.tensors)
    state = checkpoint.state
    if pace is not None:
        pace.know(state)
    at = StepCounter(total, checkpoint.step, state["skipped"], seconds_before=state["seconds"])
    return at, [*notes, f"resumed at step {checkpoint.step}"]
