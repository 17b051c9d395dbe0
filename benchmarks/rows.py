"""Rows of figures that grow: a JSON file of named rows, so that a benchmark run again goes on where it stopped."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gsd_cli.base.atomic import atomic_file, write_json

Row = dict[str, Any]


class Rows:
    """Rows by name in PATH.json, with a CSV beside it; `protocol` is what all rows must share."""

    def __init__(self, path: Path, protocol: dict[str, Any]):
        self.path, self.protocol = path, protocol
        stored = json.loads(path.read_text()) if path.exists() else {}
        if stored and stored["protocol"] != protocol:
            raise SystemExit(f"{path} was measured under another protocol: {stored['protocol']}; move it away")
        self.rows: dict[str, Row] = stored.get("rows", {})

    def once(self, name: str, measure: Callable[[], Row]) -> Row:
        """The row of this name: the stored one, else measured now and stored."""
        if name not in self.rows:
            print(name, flush=True)
            self.rows[name] = measure()
            write_json(self.path, {"protocol": self.protocol, "rows": self.rows})
            self._csv()
        return self.rows[name]

    def _csv(self) -> None:
        columns = list(dict.fromkeys(key for row in self.rows.values() for key in row))
        with atomic_file(self.path.with_suffix(".csv")) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["name", *columns])
            writer.writeheader()
            writer.writerows({"name": name, **row} for name, row in self.rows.items())


def markdown(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; numbers are given to three significant digits."""
    lines = ["| " + " | ".join(columns) + " |", "| --- " + "| ---: " * (len(columns) - 1) + "|"]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
