"""Memory of a process: its peak, and keeping what it has freed for the next step."""

from __future__ import annotations

import ctypes
import sys

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

# glibc's malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
HEADROOM = 2**28
"""Bytes that the heap grows by at once."""


def peak_memory(device: torch.device) -> int | None:
    """The largest amount of memory used so far, in bytes; None where the system does not say.

    On CUDA the peak of all tensors together, elsewhere the largest resident size of the process.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return None
    # Linux counts kilobytes, macOS bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory for reuse; return False where it is not glibc. Harmless to repeat.

    On a CPU, half of a training step's page faults come from large tensors that are mapped and unmapped again. With
    this, large blocks come from the heap instead of mmap, and the heap is not returned to the system between steps.
    Resident memory stays at its peak.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    settings = ((M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, HEADROOM), (M_MMAP_MAX, 0))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)
