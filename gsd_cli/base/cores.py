"""How many CPU cores this process may use, and how many threads torch computes with."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from gsd_cli.base.launcher import process_count

CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def available_cores() -> int:
    """The number of cores that this process may use: by its affinity and by the CPU quota of its container."""
    quota = read_cpu_quota()
    return _allowed_cores() if quota is None else max(1, min(_allowed_cores(), math.ceil(quota)))


def _allowed_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_cpu_quota(root: Path | None = None, own: Path | None = None) -> float | None:
    """The CPU time per second that the control groups of this process allow; None without a limit.

    root, own: the mounted control groups and this process's list of its own. Versions 1 and 2 are read, and every group
    above the process's own, because each of them limits it.
    """
    root, own = root or CGROUPS, own or OWN_CGROUPS
    found = [_read_quota(folder) for folder in _groups(root, own)]
    return min((quota for quota in found if quota is not None), default=None)


def _groups(root: Path, own: Path) -> Iterator[Path]:
    """The folders of this process's control groups, each with those above it."""
    lines = []
    with suppress(OSError):
        lines = own.read_text(encoding="utf-8", errors="replace").splitlines()
    for line in [*lines, "0::/", "1:cpu:/"]:
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number != "0" and "cpu" not in controllers.split(","):
            continue
        mounts = [root] if number == "0" else [root / controllers, root / "cpu"]
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for mount in mounts:
            for depth in range(len(parts) + 1):
                yield mount.joinpath(*parts[:depth])


def _read_quota(group: Path) -> float | None:
    """The quota of one control group; None where it has none, or is not there."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text().split()[:2]
            return None if quota == "max" else int(quota) / int(period)
        quota = (group / "cpu.cfs_quota_us").read_text()
        return int(quota) / int((group / "cpu.cfs_period_us").read_text()) if int(quota) > 0 else None
    return None


def limit_threads(threads: int | None) -> None:
    """Make torch compute with this number of threads; None: with no more than a container's CPU quota allows.

    It may be called before or after torch is loaded. Without a number, OMP_NUM_THREADS and launchers decide.
    """
    if threads is None:
        if _VARIABLES[0] in os.environ or process_count() > 1:
            return
        threads = available_cores()
        if threads >= _allowed_cores():  # torch's own number
            return
    for name in _VARIABLES:
        os.environ[name] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
