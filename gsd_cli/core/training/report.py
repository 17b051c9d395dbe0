"""The progress of a run: steps done and skipped, their metrics, and the time they took."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.core.training.pace import UNSETTLED

MAX_BAD_STEPS = 20
"""Consecutive non-finite steps after which a run has diverged."""

Metrics = Mapping[str, float | Tensor]
"""The figures of a step: numbers, or scalars that are still being computed on a device."""


@dataclass(frozen=True)
class Report:
    """The progress of a run after one step: what `train` yields.

    metrics: of the newest step that was read. seconds: of all sessions; session_seconds: of this one, of which
    step_seconds were spent in steps, the rest in evaluations, in checkpoints and by the caller. rehearse: the caller
    may now do once what it does at the end, to be timed. over: the session's time is up, and this is the last report.
    """

    step: int
    total: int
    images: int
    metrics: dict[str, float]
    evaluation: dict[str, float]
    seconds: float
    images_per_second: float
    skipped: int
    session_seconds: float = 0.0
    step_seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    rehearse: bool = False
    over: bool = False

    @property
    def settled(self) -> bool:
        """Whether the run's length is known."""
        return self.total < UNSETTLED

    @property
    def seconds_left(self) -> float:
        """Estimated from the rate so far; nan before it is known."""
        if not self.images_per_second or not self.settled:
            return math.nan
        return (self.total - self.step) * self.images / self.step / self.images_per_second


@dataclass(frozen=True)
class Cadence:
    """How often a run evaluates and logs (in steps) and saves (in seconds), and the share of the steps' time that
    evaluations and checkpoints may each take. What would take more is postponed, except the first and the last
    evaluation and the last checkpoint."""

    evaluate_steps: int
    log_steps: int = 10
    checkpoint_seconds: float = 60.0
    evaluate_share: float = math.inf
    checkpoint_share: float = math.inf


class StepCounter:
    """Counts the steps done and skipped, and their time; makes the reports.

    skipped: in all; bad: skipped steps in a row; seconds_before: of earlier sessions; step_seconds: spent in steps in
    this session; first: the step at which this session began; metrics: of the newest step that was read.
    """

    def __init__(self, total: int, step: int = 0, skipped: int = 0, seconds_before: float = 0.0):
        self.total, self.step, self.skipped, self.seconds_before = total, step, skipped, seconds_before
        self.bad, self.first, self.step_seconds = 0, step, 0.0
        self.metrics: dict[str, float] = {}
        self.started = self.now = self.saved = time.monotonic()
        self._unread: list[Metrics] = []
        self._window = (step, 0.0)

    @property
    def unsaved_seconds(self) -> float:
        """Seconds of work that a crash would lose."""
        return self.now - self.saved

    @property
    def elapsed(self) -> float:
        """Seconds of all sessions."""
        return self.seconds_before + time.monotonic() - self.started

    @property
    def up_to_date(self) -> bool:
        """Whether the metrics of every step were read."""
        return not self._unread

    def add(self, metrics: Metrics, seconds: float, *, read: bool) -> None:
        """Count one step that took `seconds`. Numbers and scalars on the CPU are read at once, those on another device
        if `read`: reading waits for the device."""
        self.step += 1
        self.now = time.monotonic()
        self.step_seconds += seconds
        self._unread.append(metrics)
        if read or not any(_waits(value) for value in metrics.values()):
            self.read()

    def read(self) -> None:
        """Read the unread metrics, and count the steps that were skipped."""
        for metrics in read_all(self._unread):
            skipped = metrics.pop("skipped", 0.0) > 0
            skipped |= not all(math.isfinite(v) for k, v in metrics.items() if "loss" in k)
            self.metrics = metrics
            self.bad = self.bad + 1 if skipped else 0
            self.skipped += skipped
        self._unread = []

    def check(self, folder: Path) -> None:
        """Raise GsdError (exit 6) after too many skipped steps in a row; `folder` has the last good state."""
        if self.bad >= MAX_BAD_STEPS:
            raise GsdError(
                f"training diverged: {self.bad} steps in a row were not finite",
                hint=f"the last good state is in {folder}; lower --lr or --alpha",
                code=ExitCode.DIVERGED,
            )

    def rate(self, batch: int) -> float:
        """Images per second of step time since the last call; 0 without a step."""
        steps, seconds = self.step - self._window[0], self.step_seconds - self._window[1]
        self._window = (self.step, self.step_seconds)
        return batch * steps / seconds if steps and seconds else 0.0

    def report(
        self, batch: int, evaluation: dict[str, float], notes: list[str], *, rehearse: bool, over: bool
    ) -> Report:  # fmt: skip
        """The report of the newest step; batch: images per step."""
        seconds = self.now - self.started
        return Report(
            step=self.step,
            total=self.total,
            images=self.step * batch,
            metrics=self.metrics,
            evaluation=evaluation,
            seconds=self.seconds_before + seconds,
            images_per_second=(self.step - self.first) * batch / max(seconds, 1e-9),
            skipped=self.skipped,
            session_seconds=time.monotonic() - self.started,
            step_seconds=self.step_seconds,
            notes=notes,
            rehearse=rehearse,
            over=over,
        )


def _waits(value: float | Tensor) -> bool:
    """Whether reading the value waits for a device."""
    return isinstance(value, Tensor) and value.device.type != "cpu"


def read_all(steps: Sequence[Metrics]) -> list[dict[str, float]]:
    """The metrics of several steps as numbers, with one wait for the device."""
    scalars = [
        value.detach().float().reshape(()) for one in steps for value in one.values() if isinstance(value, Tensor)
    ]
    numbers = iter(torch.stack(scalars).tolist() if scalars else [])
    return [{k: next(numbers) if isinstance(v, Tensor) else v for k, v in one.items()} for one in steps]
