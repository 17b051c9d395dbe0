"""Driving a training from a command: progress, notes, stopping, the same for every kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gsd_cli.console import Console
from gsd_cli.core.allocator import keep_freed_memory
from gsd_cli.core.trackers import NoTracker, Tracker
from gsd_cli.core.training import Cadence, Report, Task, train
from gsd_cli.core.world import World
from gsd_cli.interrupts import StopRequest

SHOWN = {"fd": "FD", "accuracy": "accuracy", "speed_cv": "speed CV", "loss": "loss", "irl_weight": "IRL weight"}


def fit(
    task: Task, total: int, work: Path, evaluate_steps: int, what: str, console: Console, stop: StopRequest,
    world: World | None = None, tracker: Tracker | None = None,
    on_evaluation: Callable[[Report], None] = lambda _: None,
) -> Report | None:  # fmt: skip
    """Train to the end; returns the last report, None when nothing was left to do.

    Raises Stopped, with the state saved, when a signal came.
    """
    keep_freed_memory()
    last = None
    figures: dict[str, float] = {}
    with console.progress(what, total) as bar:
        cadence, tracker = Cadence(evaluate_steps), tracker or NoTracker()
        for report in train(task, total, work, cadence, stop, world):
            last = report
            for note in report.notes:
                console.say(note)
            figures |= report.metrics | report.evaluation
            if report.evaluation or report.step % cadence.log_steps == 0:
                tracker.log(
                    {"images_per_second": report.images_per_second, **report.metrics, **report.evaluation},
                    report.images,
                )
            if report.evaluation:
                on_evaluation(report)
                console.detail(f"{_line(report, report.evaluation)} · {report.seconds_left / 60:.0f} min left")
            bar.update(report.step, note=_line(report, figures), facts=_facts(report, figures, work))
    if last is not None:
        beside = 1 - last.step_seconds / last.session_seconds
        console.detail(f"evaluations, checkpoints and pictures took {beside:.1%} of {last.session_seconds:.0f} s")
    if last is not None and last.step < total:
        stop.follow()
    stop.check()
    return last


def _facts(report: Report, figures: dict[str, float], work: Path) -> dict[str, str]:
    """What the live panel shows of a run."""
    shown = {name: f"{figures[key]:.3g}" for key, name in SHOWN.items() if key in figures}
    facts = {"images a second": f"{report.images_per_second:.0f}", **shown}
    grids = sorted((work / "samples").glob("*.png"))
    return facts | ({"last grid": str(grids[-1])} if grids else {})


def _line(report: Report, figures: dict[str, float]) -> str:
    shown = [f"{name} {figures[key]:.3g}" for key, name in SHOWN.items() if key in figures]
    return " · ".join([f"{report.images_per_second:.0f} img/s", *shown])
