"""What a launcher (torchrun, accelerate) told this process, from the environment. No heavy imports."""

from __future__ import annotations

import os


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
