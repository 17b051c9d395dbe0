"""metrics.jsonl: the figures of a run, one JSON object per line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from gsd_cli.base.atomic import atomic_file, sweep
from gsd_cli.base.storage import storage_errors


class MetricsLog:
    """Writes metrics.jsonl; rows after the resumed step are dropped."""

    def __init__(self, path: Path, resumed_step: int):
        self.path = path
        self.rows = [row for row in read_metrics(path) if row["step"] <= resumed_step] if resumed_step else []
        sweep(path.parent)
        with atomic_file(path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")

    def append(self, row: dict[str, Any]) -> None:
        """Add one row."""
        row = {k: _number(v) for k, v in row.items()}
        self.rows.append(row)
        with storage_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")


def _number(value: Any) -> Any:
    # JSON has no NaN
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, without an incomplete last line; none if the file is missing."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return [row for row in rows if isinstance(row, dict) and isinstance(row.get("step"), int)]
