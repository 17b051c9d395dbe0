"""What images cost: seconds per image, images per second by batch size, memory of a call."""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gsd_cli.compute.device import synchronize
from gsd_cli.compute.random import latents
from gsd_cli.core.models.renderer import Renderer
from gsd_cli.core.sampling.images import conditions_for

MEASURED_SECONDS = 1.0


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
    """Run every task once per round, for `repeats` rounds; a call makes `batch` images.

    The caller warms the tasks up. They are interleaved, so a machine whose speed drifts slows all of them alike.
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


@torch.no_grad()
def throughput(generator: Renderer, largest: int, check: Callable[[], None] = lambda: None) -> dict[int, float]:
    """Images per second at batch 1, 4, 16, ... up to `largest`: calls repeated for a second, after a warm-up."""
    sizes = [size for size in (1, 4, 16, 64, 256, 1024) if size < largest] + [largest]
    rates, device = {}, generator.device
    for size in sizes:
        z = latents(range(size), generator.latent_shape, "timing").to(device)
        given = conditions_for(generator, range(size))
        generator(z, given)
        synchronize(device)
        start, calls = time.perf_counter(), 0
        while time.perf_counter() - start < MEASURED_SECONDS:
            check()
            generator(z, given)
            synchronize(device)
            calls += 1
        rates[size] = size * calls / (time.perf_counter() - start)
    return rates


@torch.no_grad()
def memory_of_call(call: Callable[[Tensor], object], x: Tensor) -> int | None:
    """Bytes that `call(x)` takes at its peak, above what was in use before; None where no system counter says it.

    On a GPU it is the allocator's figure. On Linux it is the process's resident memory; its high-water mark is reset
    first.
    """
    call(x)  # a first call also allocates what later calls share
    if x.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(x.device)
        before = torch.cuda.memory_allocated(x.device)
        call(x)
        return torch.cuda.max_memory_allocated(x.device) - before
    try:
        ctypes.CDLL(None).malloc_trim(0)  # a freed page that the call takes again would not count
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return None
    before = _resident("VmRSS")
    call(x)
    return max(0, _resident("VmHWM") - before)


def _resident(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1]) if found else 0
