"""Runs a training for a command: shows progress and messages, logs to a tracker, and stops after a signal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gsd_cli.base.session import Session
from gsd_cli.base.text import format_number
from gsd_cli.catalogue.run_layout import last_grid
from gsd_cli.compute.distributed import World
from gsd_cli.compute.memory import keep_freed_memory
from gsd_cli.core.training.loop import Task, train
from gsd_cli.core.training.pace import Pace
from gsd_cli.core.training.report import Cadence, Report
from gsd_cli.core.training.trackers import NoTracker, Tracker

FIGURE_NAMES = {
    "fd": "Frechet distance",
    "recall": "recall",
    "coverage": "coverage",
    "accuracy": "accuracy",
    "speed_cv": "speed CV",
    "loss": "loss",
    "irl_weight": "IRL weight",
}


def run_training(
    task: Task, total: int | None, work: Path, cadence: Cadence, what: str, session: Session,
    world: World | None = None, tracker: Tracker | None = None, pace: Pace | None = None,
    on_evaluation: Callable[[Report], None] = lambda _: None, on_rehearsal: Callable[[], None] = lambda: None,
    figure: str = FIGURE_NAMES["fd"],
) -> Report | None:  # fmt: skip
    """Train to the end, or as long as `pace` allows; returns the last report, None if the training was finished.

    figure: the name of the Frechet distance `fd`. on_rehearsal: does what the caller does at the end. A run with a pace
    calls it once early, to measure its time.
    Raises Stopped after a signal, with the state saved.
    """
    keep_freed_memory()
    last, figures = None, _LatestFigures(work, FIGURE_NAMES | {"fd": figure})
    tracker = tracker or NoTracker()
    with session.console.progress(what, total) as bar:
        for report in train(task, total, work, cadence, session.stop, world, pace, session.doing):
            last = report
            for note in report.notes:
                session.say(note)
            logged = report.step % cadence.log_steps == 0
            if report.evaluation or logged:
                tracker.log(
                    {"images_per_second": report.images_per_second, **report.metrics, **report.evaluation},
                    report.images,
                )
            if report.evaluation:
                session.doing("writing the results of the evaluation")
                on_evaluation(report)
                shown = figures.format(report, report.evaluation)
                session.console.detail(f"{shown} · {report.seconds_left / 60:.0f} min left")
            if report.rehearse:
                session.doing("exporting once, to time it")
                on_rehearsal()
            session.doing("")
            length = report.total if report.settled else None
            # formatting takes longer than a step of a small network on a fast device
            if report.evaluation or logged or report.step == 1 or report.step == length:
                bar.update(report.step, length, *figures.update(report))
            else:
                bar.update(report.step, length)
    if last is not None:
        overhead = 1 - last.step_seconds / last.session_seconds
        session.console.detail(
            f"evaluations, checkpoints and images took {overhead:.1%} of {last.session_seconds:.0f} s"
        )
        if last.step < last.total and not last.over:
            session.stop.follow()
    session.check()
    return last


def _format_rate(report: Report) -> str:
    rate = report.images_per_second
    return f"{rate:,.0f}" if rate >= 10 else format_number(rate, 2)


class _LatestFigures:
    """What the progress of a run in `work` shows: the latest value of each figure, and the latest grid of samples."""

    def __init__(self, work: Path, names: dict[str, str]):
        self.work, self.names = work, names
        self.figures, self.grid = dict[str, float](), self._find_newest(work)

    def update(self, report: Report) -> tuple[str, dict[str, str]]:
        """Take the figures of `report`; returns a short note and the facts for a live panel."""
        self.figures |= report.metrics | report.evaluation
        if report.evaluation:
            self.grid = self._find_newest(self.work)
        shown = {name: f"{self.figures[key]:.3g}" for key, name in self.names.items() if key in self.figures}
        facts = {"images per second": _format_rate(report), **shown}
        return self.format(report, self.figures), facts | ({"last grid": self.grid} if self.grid else {})

    def format(self, report: Report, figures: dict[str, float]) -> str:
        """The rate and these figures, in one line."""
        shown = [f"{name} {figures[key]:.3g}" for key, name in self.names.items() if key in figures]
        return " · ".join([f"{_format_rate(report)} img/s", *shown])

    @staticmethod
    def _find_newest(work: Path) -> str | None:
        """The newest grid of samples. Called only after evaluations, because listing a large folder is slow."""
        newest = last_grid(work)
        return None if newest is None else str(newest)
