"""The figures of a run that do not depend on the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gsd_cli.core.training.log import read_metrics

MACHINE = ("images_per_second", "peak_memory")


def timeless(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl without rates and memory."""
    return [{k: v for k, v in row.items() if k not in MACHINE} for row in read_metrics(run / "metrics.jsonl")]
