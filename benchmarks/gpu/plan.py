"""What all parts of `python -m benchmarks.gpu` share: their plan, and rows that are on disk after each one.

Only the standard library is imported here: the first part says which packages are missing.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
GIGABYTE = 2**30
Row = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """Where a part writes, on which device, how small, and for how many seconds."""

    out: Path
    device: str
    small: bool
    seconds: float


class Rows:
    """The rows of a part, written to `path` after each row."""

    def __init__(self, path: Path):
        self.path, self.rows = path, dict[str, Row]()

    def add(self, name: str, measure: Callable[[], Row]) -> Row:
        """Measure a row. If it raises, the traceback is its result."""
        print(name, flush=True)
        begun = time.monotonic()
        try:
            row = measure()
        except Exception as error:
            traceback.print_exc()
            row = {"error": f"{type(error).__name__}: {error}"[:500], "traceback": traceback.format_exc()[-4000:]}
        self.rows[name] = {**row, "seconds": round(time.monotonic() - begun, 2)}
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps({"rows": self.rows}, indent=2) + "\n", encoding="utf-8")
        temporary.replace(self.path)
        return self.rows[name]
