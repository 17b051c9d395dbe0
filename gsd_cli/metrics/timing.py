"""Inference time, fairly: warm, synchronised, interleaved in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from gsd_cli.compute.device import synchronize


@dataclass(frozen=True)
class Timing:
    """Seconds per image: median and quartiles over repeats."""

    median: float
    low: float
    high: float
    repeats: int
    batch: int


def time_interleaved(
    tasks: Mapping[str, Callable[[], object]],
    batch: int,
    device: torch.device,
    repeats: int = 5,
    on_run: Callable[[int, int], None] | None = None,
) -> dict[str, Timing]:
    """Run every task once per round, `repeats` rounds; each makes `batch` images a call.

    Warm each task up before. Interleaving lets a machine whose speed drifts slow all of them alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for round_ in range(repeats):
        for i, (name, task) in enumerate(tasks.items()):
            synchronize(device)
            start = time.perf_counter()
            task()
            synchronize(device)
            seconds[name].append((time.perf_counter() - start) / batch)
            if on_run is not None:
                on_run(round_ * len(tasks) + i + 1, repeats * len(tasks))
    return {name: _summarise(s, batch) for name, s in seconds.items()}


def _summarise(seconds: list[float], batch: int) -> Timing:
    low, median, high = np.percentile(seconds, [25, 50, 75]).tolist()
    return Timing(median, low, high, len(seconds), batch)
