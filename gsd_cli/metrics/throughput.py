"""How fast a generator makes images by batch size, and how much memory a call takes."""

from __future__ import annotations

import ctypes
import re
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gsd_cli.compute.device import synchronize
from gsd_cli.compute.random import latents
from gsd_cli.core.models.generator import Generator

MEASURED_SECONDS = 1.0


@torch.no_grad()
def throughput(
    generator: Generator, device: torch.device, largest: int, check: Callable[[], None] = lambda: None
) -> dict[int, float]:
    """Images a second at batch 1, 4, 16, ... up to `largest`: calls repeated for a second, after a warm-up."""
    sizes = [size for size in (1, 4, 16, 64, 256, 1024) if size < largest] + [largest]
    rates = {}
    for size in sizes:
        z = latents(range(size), generator.latent_shape, "timing").to(device)
        generator(z)
        synchronize(device)
        start, calls = time.perf_counter(), 0
        while time.perf_counter() - start < MEASURED_SECONDS:
            check()
            generator(z)
            synchronize(device)
            calls += 1
        rates[size] = size * calls / (time.perf_counter() - start)
    return rates


@torch.no_grad()
def peak_memory(call: Callable[[Tensor], object], x: Tensor) -> int | None:
    """Bytes that `call(x)` takes at its peak, above what was in use before; None where it cannot be told.

    On a GPU the allocator's figure; on Linux the process's resident memory, whose high-water mark is reset
    first.
    """
    call(x)  # what is made once, at a first call, is not of the call
    if x.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(x.device)
        before = torch.cuda.memory_allocated(x.device)
        call(x)
        return torch.cuda.max_memory_allocated(x.device) - before
    try:
        ctypes.CDLL(None).malloc_trim(0)  # freed pages would be used again without being seen
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return None
    before = _resident("VmRSS")
    call(x)
    return max(0, _resident("VmHWM") - before)


def _resident(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1]) if found else 0
