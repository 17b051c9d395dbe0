"""Experiment trackers: a run's figures sent elsewhere too, through accelerate's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from gsd_cli.base.errors import ExitCode, GsdError


class Tracker(Protocol):
    """Somewhere a run's figures go besides metrics.jsonl."""

    def log(self, figures: Mapping[str, float], images: int) -> None:
        """Figures after `images` images."""

    def close(self) -> None:
        """Everything is written when this returns."""


class NoTracker:
    """Nowhere."""

    def log(self, figures: Mapping[str, float], images: int) -> None:
        """Nothing is kept."""

    def close(self) -> None:
        """There is nothing to close."""


class AccelerateTracker:
    """tensorboard, wandb or trackio, as accelerate wraps them."""

    def __init__(self, tracker: Any):
        self._tracker = tracker

    def log(self, figures: Mapping[str, float], images: int) -> None:
        """Finite figures, at the number of images."""
        self._tracker.log({key: value for key, value in figures.items() if math.isfinite(value)}, step=images)

    def close(self) -> None:
        """Flush and finish."""
        self._tracker.finish()


def open_tracker(name: str | None, run: Path, config: Mapping[str, Any], *, offline: bool = False) -> Tracker:
    """The tracker called `name` (None: nowhere) for the run in folder `run`.

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
        raise GsdError(f"{name} is not installed", hint=f"pip install 'gsd-cli[{name}]'", code=ExitCode.USAGE)
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
