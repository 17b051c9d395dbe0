"""What a launcher (torchrun, accelerate) says to this process through the environment. No heavy imports."""

from __future__ import annotations

import os
import time

from gsd_cli.base.errors import UsageError


def process_count() -> int:
    """The number of processes that a launcher started together; 1 without a launcher. Raises UsageError (exit 2)."""
    # some schedulers set RANK by themselves
    if "MASTER_ADDR" not in os.environ or "RANK" not in os.environ:
        return 1
    return max(1, _number("WORLD_SIZE", 1))


def rank() -> int:
    """This process's number among all of them, from 0. Raises UsageError (exit 2)."""
    size = process_count()
    if size == 1:  # variables that an earlier job left behind do not make it another than the first
        return 0
    own = _number("RANK", 0)
    if not 0 <= own < size:
        raise UsageError([f"RANK={own} and WORLD_SIZE={size} in the environment contradict each other"], hint=_ALONE)
    return own


def local_rank() -> int:
    """This process's number among those on this machine, from 0: the index of its device."""
    return _number("LOCAL_RANK", 0) if process_count() > 1 else 0


def require_others(option: str) -> None:
    """Raise UsageError (exit 2) for an option that needs several processes in a process that is the only one."""
    if process_count() == 1:
        raise UsageError(
            [f"{option} shares the networks between several processes, and this is the only one"],
            hint=f"torchrun --nproc-per-node N -m gsd_cli distill ..., or leave out {option}",
        )


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise UsageError([f"{name}={text!r} in the environment is no number"], hint=_ALONE) from None


_ALONE = "a launcher sets RANK and WORLD_SIZE; to run gsd alone: env -u RANK gsd ..."


def process_age() -> float:
    """Seconds since this process started, including the loading of Python; 0 where the system does not say."""
    try:
        with open("/proc/self/stat", "rb") as file:
            # the name, in brackets, may hold anything; the 22nd field is the start in clock ticks since boot
            ticks = int(file.read().rpartition(b")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError, ValueError, IndexError):
        return 0.0
