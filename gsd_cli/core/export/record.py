"""What is known of an exported file once it is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsd_cli.base.text import format_bytes, format_seconds
from gsd_cli.core.export.check import SEEDS, Difference


@dataclass(frozen=True)
class Export:
    """An exported file, and the difference of its images from torch's over SEEDS seeds."""

    path: Path
    precision: str
    bytes: int
    seconds: float
    difference: Difference

    def figures(self) -> dict[str, Any]:
        """The figures for --json."""
        about = {"precision": self.precision, "bytes": self.bytes, "seconds": self.seconds}
        return about | {
            "compared_seeds": SEEDS,
            "largest_difference": self.difference.largest,
            "rms_difference": self.difference.rms,
        }

    def describe(self) -> str:
        """One line for the user."""
        found = self.difference
        return (
            f"{self.path}: {format_bytes(self.bytes)}, {self.precision}, {format_seconds(self.seconds)}; pixels in "
            f"[-1, 1] of {SEEDS} seeds differ from torch's by {found.largest:.2g} at most ({found.rms:.2g} rms)"
        )
