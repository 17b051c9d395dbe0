"""Choosing the range of values of a set: what its images declare and show, whatever a few of their pixels hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from gsd_cli.data.raster import NOT_FINITE, Range, Raster

_WIDTHS = (8, 10, 12, 14, 16)
"""Bits that cameras and scanners use, whatever the type of their numbers."""
_SLACK = 0.05
"""Resampling overshoots: floats may leave a range by this share of the width that they fill."""
_FEW, _FEW_SHARE, _FEW_MATTER = 4, 1000, 64
"""A few pixels at either end of an image's values: 4, or 1 of 1,000; none in an image of less than 64."""

_FEW_IMAGES = 100
"""One image of this many is few."""
NARROW = 1 / 8
"""An image that fills less of the range uses few of the greys."""


@dataclass(frozen=True)
class Extent:
    """The finite values of one image: their ends, their ends without a few pixels, and whether all are whole."""

    low: float
    high: float
    inner: Range
    whole: bool


def measure(pixels: np.ndarray) -> Extent | None:
    """The extent of an image's values; None where none is finite."""
    values = pixels.ravel() if pixels.dtype.kind != "f" else pixels[np.isfinite(pixels)]
    if not values.size:
        return None
    low, high = float(values.min()), float(values.max())
    whole = pixels.dtype.kind != "f" or bool((values == np.round(values)).all())
    few = max(_FEW, values.size // _FEW_SHARE) if values.size >= _FEW_MATTER else 0
    ordered = np.partition(values, (few, values.size - 1 - few))
    return Extent(low, high, (float(ordered[few]), float(ordered[-1 - few])), whole)


@dataclass
class Seen:
    """What the images of one kind of numbers show and declare. highest: the image with the largest value."""

    extents: list[Extent] = field(default_factory=list)
    declared: Range | None = None
    undeclared: int = 0
    low: float = np.inf
    high: float = -np.inf
    highest: str = ""

    @property
    def images(self) -> int:
        """How many were looked at."""
        return len(self.extents)

    def add(self, raster: Raster, name: str = "") -> None:
        """Take in one image. Raises ValueError where no value of it is finite."""
        extent = measure(raster.pixels)
        if extent is None:
            raise ValueError(NOT_FINITE)
        self.extents.append(extent)
        if extent.high > self.high:
            self.highest = name
        self.low, self.high = min(self.low, extent.low), max(self.high, extent.high)
        if raster.declared is None:
            self.undeclared += 1
            return
        before = self.declared or raster.declared
        self.declared = min(before[0], raster.declared[0]), max(before[1], raster.declared[1])

    @property
    def found(self) -> Range:
        """The lowest and the highest value, without a few pixels and a few images that would make the others dark.

        Pixels are left out where they would double the range; one image of 100 where it would make most of the others
        fill less than an eighth of it.
        """
        found = _join(self.extents)
        few = self.images // _FEW_IMAGES
        if not few or not self.is_mostly_narrow(found):
            return found
        lowest = sorted(extent.inner[0] for extent in self.extents)[few]
        highest = sorted(extent.inner[1] for extent in self.extents)[-1 - few]
        without = _join([one for one in self.extents if one.inner[0] >= lowest and one.inner[1] <= highest])
        return found if self.is_mostly_narrow(without) else without

    def shares_used(self, limits: Range) -> list[float]:
        """The share of a range that the bulk of each image fills, 0 to 1; images of one value are left out."""
        shares = []
        for extent in self.extents:
            low, high = extent.inner if extent.inner[0] < extent.inner[1] else (extent.low, extent.high)
            if low < high:
                shares.append(float(np.ptp(np.clip((low, high), *limits))) / (limits[1] - limits[0]))
        return shares

    def is_mostly_narrow(self, limits: Range) -> bool:
        """Whether most images fill less of a range than is worth a warning."""
        shares = self.shares_used(limits) if limits[0] < limits[1] else []
        return 2 * sum(share < NARROW for share in shares) > len(shares)


def _join(extents: Sequence[Extent]) -> Range:
    """The range of all values, without a few pixels of each image where these would double it."""
    low, high = min(one.low for one in extents), max(one.high for one in extents)
    inner_low, inner_high = min(one.inner[0] for one in extents), max(one.inner[1] for one in extents)
    width = inner_high - inner_low
    if width <= 0:
        return low, high
    return (low if inner_low - low <= width else inner_low), (high if high - inner_high <= width else inner_high)


def choose_range(kind: str, seen: Seen) -> tuple[Range, str]:
    """The range of one kind of numbers over a set, and whether it is declared or shown by the values."""
    if kind == "uint8":
        return (0, 255), "declared"
    found = seen.found
    if seen.declared and not seen.undeclared and is_within(found, seen.declared, _SLACK):
        return seen.declared, "declared"
    slack = slack_of(kind)
    fitting = next((known for known in _usual_ranges(kind, seen) if is_within(found, known, slack)), found)
    return (fitting if fitting[0] < fitting[1] else (found[0], found[0] + 1)), "shown"


def _usual_ranges(kind: str, seen: Seen) -> Sequence[Range]:
    """The ranges that values of a kind usually have, the narrowest first."""
    if kind == "float":
        # the bits of a camera, if they are not mostly empty
        widths = [2**width - 1 for width in _WIDTHS] if all(extent.whole for extent in seen.extents) else []
        low, high = seen.found
        return [(0, 1), (-1, 1), *((0, top) for top in widths if high - low >= top / 2)]
    if seen.low < 0:
        return ()  # signed numbers have no usual zero
    own = 8 * np.dtype(kind).itemsize - kind.startswith("int")
    return [(0, 2**width - 1) for width in (*(width for width in _WIDTHS if width < own), own)]


def is_within(found: Range, known: Range, slack: float) -> bool:
    """Whether a range lies in another, or leaves it by at most this share of the narrower one."""
    room = slack * min(known[1] - known[0], found[1] - found[0])
    return known[0] - room <= found[0] and found[1] <= known[1] + room


def slack_of(kind: str) -> float:
    """The share of a range by which values may leave it: resampled floats overshoot."""
    return _SLACK if kind == "float" else 0.0
