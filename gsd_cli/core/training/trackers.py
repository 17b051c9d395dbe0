"""Experiment trackers (tensorboard, wandb, trackio), through accelerate."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from gsd_cli.base.errors import ExitCode, GsdError


class Tracker(Protocol):
    """Receives a run's metrics, in addition to metrics.jsonl."""

    def log(self, figures: Mapping[str, float], images: int) -> None:
        """Record metrics after `images` images."""

    def close(self) -> None:
        """Finish; everything is written when this returns."""


class NoTracker:
    """No tracker."""

    def log(self, figures: Mapping[str, float], images: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class AccelerateTracker:
    """tensorboard, wandb or trackio, as accelerate wraps them."""

    def __init__(self, tracker: Any):
        self._tracker = tracker

    def log(self, figures: Mapping[str, float], images: int) -> None:
        """Record the finite metrics after `images` images."""
        self._tracker.log({key: value for key, value in figures.items() if math.isfinite(value)}, step=images)

    def close(self) -> None:
        """Flush and finish."""
        self._tracker.finish()


def open_tracker(name: str | None, run: Path, config: Mapping[str, Any], *, offline: bool = False) -> Tracker:
    """Open the tracker called `name` (None: no tracker) for the run in folder `run`.

    tensorboard writes RUN/tensorboard; wandb and trackio use their own settings. Raises GsdError
    (exit 2) when its package is not installed, or when it would need a network that --offline forbids.
    """
    if name is None:
        return NoTracker()
    if name == "wandb" and offline:
        raise GsdError(
            "wandb needs the network",
            hint="WANDB_MODE is its own switch; use --tracker tensorboard",
            code=ExitCode.USAGE,
        )
    from accelerate.state import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    if name not in {str(kind) for kind in get_available_trackers()}:
        raise GsdError(f"{name} is not installed", hint=f"pip install {name}", code=ExitCode.USAGE)
    PartialState(cpu=True)  # accelerate's trackers ask it which process is the main one
    kind = LOGGER_TYPE_TO_CLASS[name]
    if name == "tensorboard":
        tracker = kind("tensorboard", logging_dir=str(run))
    else:
        tracker = kind("gsd", name=run.name, dir=str(run)) if name == "wandb" else kind("gsd", name=run.name)
    if hasattr(tracker, "start"):
        tracker.start()
    tracker.store_init_configuration(dict(config))
    return AccelerateTracker(tracker)
