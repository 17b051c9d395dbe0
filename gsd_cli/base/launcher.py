"""What a launcher (torchrun, accelerate) told this process, from the environment. No heavy imports."""

from __future__ import annotations

import os
import time


def launched() -> int:
    """How many processes a launcher started this one among; 1 when there was none."""
    return int(os.environ.get("WORLD_SIZE", "1")) if _together() else 1


def rank() -> int:
    """This process's number among them."""
    return int(os.environ["RANK"]) if _together() else 0


def local_rank() -> int:
    """Its number among those of this machine: which device is its own."""
    return int(os.environ.get("LOCAL_RANK", "0")) if _together() else 0


def _together() -> bool:
    # some schedulers set RANK by themselves
    return "MASTER_ADDR" in os.environ and "RANK" in os.environ


def process_age() -> float:
    """Seconds since this process was started, the loading of Python included; 0 where the system does not tell it."""
    try:
        with open("/proc/self/stat", "rb") as file:
            # the name, in brackets, may hold anything; the 22nd field is the start in clock ticks since boot
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError, ValueError, IndexError):
        return 0.0
