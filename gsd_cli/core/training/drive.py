"""Driving a training from a command: progress, notes, stopping, the same for every kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gsd_cli.base.session import Session
from gsd_cli.compute.distributed import World
from gsd_cli.compute.memory import keep_freed_memory
from gsd_cli.core.training.loop import Task, train
from gsd_cli.core.training.pace import Pace
from gsd_cli.core.training.report import Cadence, Report
from gsd_cli.core.training.trackers import NoTracker, Tracker

SHOWN = {"fd": "FD", "accuracy": "accuracy", "speed_cv": "speed CV", "loss": "loss", "irl_weight": "IRL weight"}


def fit(
    task: Task, total: int | None, work: Path, cadence: Cadence, what: str, session: Session,
    world: World | None = None, tracker: Tracker | None = None, pace: Pace | None = None,
    on_evaluation: Callable[[Report], None] = lambda _: None, on_rehearsal: Callable[[], None] = lambda: None,
) -> Report | None:  # fmt: skip
    """Train to the end, or for as long as `pace` allows; returns the last report, None when nothing was left to do.

    on_rehearsal: what the caller does at the end, called once early in a paced run, to be timed. Raises Stopped,
    with the state saved, when a signal came.
    """
    keep_freed_memory()
    last, shown = None, _Shown(work)
    tracker = tracker or NoTracker()
    with session.console.progress(what, total) as bar:
        for report in train(task, total, work, cadence, session.stop, world, pace):
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
                on_evaluation(report)
                session.console.detail(f"{_line(report, report.evaluation)} · {report.seconds_left / 60:.0f} min left")
            if report.rehearse:
                on_rehearsal()
            length = report.total if report.settled else None
            # the texts cost more than a step of a small network on a fast device
            if report.evaluation or logged or report.step == 1 or report.step == length:
                bar.update(report.step, length, *shown.of(report))
            else:
                bar.update(report.step, length)
    if last is not None:
        overhead = 1 - last.step_seconds / last.session_seconds
        session.console.detail(
            f"evaluations, checkpoints and pictures took {overhead:.1%} of {last.session_seconds:.0f} s"
        )
        if last.step < last.total and not last.over:
            session.stop.follow()
    session.check()
    return last


class _Shown:
    """What the progress shows of a run in `work`: the newest of each figure, and the newest grid of samples."""

    def __init__(self, work: Path):
        self.work, self.figures, self.grid = work, dict[str, float](), self._newest(work)

    def of(self, report: Report) -> tuple[str, dict[str, str]]:
        """A short note and the facts of a live panel."""
        self.figures |= report.metrics | report.evaluation
        if report.evaluation:
            self.grid = self._newest(self.work)
        shown = {name: f"{self.figures[key]:.3g}" for key, name in SHOWN.items() if key in self.figures}
        facts = {"images a second": f"{report.images_per_second:.0f}", **shown}
        return _line(report, self.figures), facts | ({"last grid": self.grid} if self.grid else {})

    @staticmethod
    def _newest(work: Path) -> str | None:
        """Listing a folder of thousands of files takes longer than a step: only after an evaluation."""
        return max((str(path) for path in (work / "samples").glob("*.png")), default=None)


def _line(report: Report, figures: dict[str, float]) -> str:
    shown = [f"{name} {figures[key]:.3g}" for key, name in SHOWN.items() if key in figures]
    return " · ".join([f"{report.images_per_second:.0f} img/s", *shown])
