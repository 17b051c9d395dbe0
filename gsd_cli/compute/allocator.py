"""Keeping freed memory for the next step: on a CPU, half of a step's page faults are large tensors
mapped and unmapped again and again."""

from __future__ import annotations

import ctypes
import sys

# glibc's malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
HEADROOM = 2**28


def keep_freed_memory() -> bool:
    """Ask the C library to hold on to freed memory; False where it is not glibc. Harmless to repeat.

    Large blocks then come from the heap, not from mmap, and the heap is not given back to the
    system between steps. Resident memory stays at its peak.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    wishes = ((M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, HEADROOM), (M_MMAP_MAX, 0))
    return all(mallopt(parameter, value) == 1 for parameter, value in wishes)
