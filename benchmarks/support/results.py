"""Results that outlive an interruption: named rows in a JSON file, so that a benchmark resumes where it stopped."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gsd_cli.base.atomic import atomic_file, write_json

Row = dict[str, Any]


class Results:
    """Rows by name in PATH.json, and the same rows in PATH.csv; `protocol` is what all rows must share."""

    def __init__(self, path: Path, protocol: dict[str, Any]):
        self.path, self.protocol = path, protocol
        stored = json.loads(path.read_text()) if path.exists() else {}
        if stored and stored["protocol"] != protocol:
            raise SystemExit(f"{path} was measured under another protocol: {stored['protocol']}; move it away")
        self.rows: dict[str, Row] = stored.get("rows", {})

    def measure_once(self, name: str, measure: Callable[[], Row]) -> Row:
        """The stored row of this name. Without one, measure and store it."""
        if name not in self.rows:
            print(name, flush=True)
            self.rows[name] = measure()
            write_json(self.path, {"protocol": self.protocol, "rows": self.rows})
            self._write_csv()
        return self.rows[name]

    def _write_csv(self) -> None:
        columns = list(dict.fromkeys(key for row in self.rows.values() for key in row))
        with atomic_file(self.path.with_suffix(".csv")) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["name", *columns])
            writer.writeheader()
            writer.writerows({"name": name, **row} for name, row in self.rows.items())
