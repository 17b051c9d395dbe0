"""Pixels of more than 8 bits or of other than one and three channels, and the range of values they are shown in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

MOST_CHANNELS = 16
"""Channels that an image may have."""
Range = tuple[float, float]
"""The values that become black and white."""
Ranges = Mapping[str, Range]
"""The range of each kind of numbers (`number_kind`), the same for every image of a set."""
ANY = "any"
"""The kind that stands for all others."""
AS_STORED: Ranges = {}
"""Whole numbers fill the range of their type; for others there is no range."""

_WIDTHS = (8, 10, 12, 14, 16)
"""Bits that cameras and scanners use, whatever the type of their numbers."""
_SLACK = 0.05
"""Resampling overshoots: floats may leave a range by this share of the width that they fill."""


@dataclass(frozen=True)
class Raster:
    """Upright pixels [H, W, C] as stored, whole numbers or floats.

    declared: the range that the file names. alpha: the last channel is one. inverted: black is the largest value.
    """

    pixels: np.ndarray
    declared: Range | None = None
    alpha: bool = False
    inverted: bool = False

    @property
    def channels(self) -> int:
        """The number of channels without alpha."""
        return int(self.pixels.shape[2]) - self.alpha


@dataclass
class Seen:
    """What the images of one kind of numbers show and declare."""

    low: float = np.inf
    high: float = -np.inf
    declared: Range | None = None
    images: int = 0
    undeclared: int = 0

    def add(self, raster: Raster) -> None:
        """Take in one image."""
        self.images += 1
        finite = raster.pixels[np.isfinite(raster.pixels)]
        if finite.size:
            self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))
        if raster.declared is None:
            self.undeclared += 1
            return
        before = self.declared or raster.declared
        self.declared = min(before[0], raster.declared[0]), max(before[1], raster.declared[1])


def number_kind(dtype: np.dtype) -> str:
    """What shares a range: all floats, or the whole numbers of one type."""
    return "float" if dtype.kind == "f" else dtype.name


def choose_range(kind: str, seen: Seen) -> tuple[Range, str]:
    """The range of one kind of numbers over a set, and whether it is declared or shown by the values."""
    if kind == "uint8":
        return (0, 255), "declared"
    if seen.low > seen.high:  # no finite value
        return (0, 1), "shown"
    if seen.declared and not seen.undeclared and _within((seen.low, seen.high), seen.declared):
        return seen.declared, "declared"
    found = (seen.low, seen.high)
    own = 17 if kind == "float" else 8 * np.dtype(kind).itemsize - kind.startswith("int")
    widths = [width for width in _WIDTHS if width < own] + [own] * (kind != "float")
    whole: list[Range] = [(0, 2**width - 1) for width in widths]
    if kind == "float":
        usual: Sequence[Range] = [(0, 1), (-1, 1), *whole]
    elif seen.low < 0:
        usual = ()  # signed numbers have no usual zero
    else:
        usual = whole
    slack = _SLACK if kind == "float" else 0
    fitting = next((known for known in usual if _within(found, known, slack)), found)
    return (fitting if fitting[0] < fitting[1] else (found[0], found[0] + 1)), "shown"


def _within(found: Range, known: Range, slack: float = _SLACK) -> bool:
    room = slack * min(known[1] - known[0], found[1] - found[0])
    return known[0] - room <= found[0] and found[1] <= known[1] + room


def to_eight_bits(raster: Raster, ranges: Ranges) -> Image.Image | np.ndarray:
    """Pixels scaled to 0..255: an image in mode L or RGB, else uint8 [H, W, C]. Transparent parts become white.

    NaN counts as the lowest value. Raises ValueError for floats that no range is known of, or too many channels.
    """
    if not 1 <= raster.channels <= MOST_CHANNELS:
        raise ValueError(f"{raster.channels} channels; gsd takes 1 to {MOST_CHANNELS}")
    low, high = _range_of(raster.pixels.dtype, ranges)
    pixels = raster.pixels
    if (low, high) != (0, 255) or pixels.dtype != np.uint8:
        wide = np.nan_to_num(pixels.astype(np.float64), nan=low, posinf=high, neginf=low)
        pixels = ((wide.clip(low, high) - low) * (255 / (high - low))).round().astype(np.uint8)
    if raster.inverted:
        pixels = 255 - pixels
    if raster.alpha:
        share = pixels[..., -1:] / 255
        pixels = (pixels[..., :-1] * share + 255 * (1 - share)).round().astype(np.uint8)
    if raster.channels in (1, 3):
        return Image.fromarray(np.ascontiguousarray(pixels[..., 0] if raster.channels == 1 else pixels))
    return pixels


def _range_of(dtype: np.dtype, ranges: Ranges) -> Range:
    if dtype == np.uint8:
        return 0, 255
    if (known := ranges.get(number_kind(dtype), ranges.get(ANY))) is not None:
        return known
    if dtype.kind == "f":
        raise ValueError("its values are floats of an unknown range; gsd prepare --value-range LOW:HIGH names it")
    limits = np.iinfo(dtype)
    return limits.min, limits.max


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels [H, W, ...] turned as EXIF's or TIFF's orientation (tag 274) says; other values leave them as they are."""
    turned = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a[::-1].swapaxes(0, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: a[:, ::-1].swapaxes(0, 1),
    }
    return turned.get(orientation, lambda a: a)(pixels)
