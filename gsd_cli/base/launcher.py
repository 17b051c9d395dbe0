"""What a launcher (torchrun, accelerate) says to this process through the environment. No heavy imports."""

from __future__ import annotations

import os
import time


def process_count() -> int:
    """The number of processes that a launcher started together; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1")) if _is_launched() else 1


def rank() -> int:
    """This process's number among all of them, from 0."""
    return int(os.environ["RANK"]) if _is_launched() else 0


def local_rank() -> int:
    """This process's number among those on this machine, from 0: the index of its device."""
    return int(os.environ.get("LOCAL_RANK", "0")) if _is_launched() else 0


def _is_launched() -> bool:
    # some schedulers set RANK by themselves
    return "MASTER_ADDR" in os.environ and "RANK" in os.environ


def process_age() -> float:
    """Seconds since this process started, including the loading of Python; 0 where the system does not say."""
    try:
        with open("/proc/self/stat", "rb") as file:
            # the name, in brackets, may hold anything; the 22nd field is the start in clock ticks since boot
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError, ValueError, IndexError):
        return 0.0
