"""A disk with room, for tests of what a run would need: the machine's own disk may be fuller."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

Usage = namedtuple("Usage", "total used free")


def empty_disk(_: str | Path) -> Usage:
    """In the place of `shutil.disk_usage`: a terabyte, all of it free."""
    return Usage(10**12, 0, 10**12)


def pretend_room() -> None:
    """Let a process find a terabyte free, whatever the disk is."""
    shutil.disk_usage = empty_disk  # type: ignore[assignment]
