"""Pixels of more than 8 bits or of other than one and three channels, and the range of values they are shown in."""

from __future__ import annotations

from collections.abc import Mapping
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

NOT_FINITE = "none of its values is finite"


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


def number_kind(dtype: np.dtype) -> str:
    """What shares a range: all floats, or the whole numbers of one type."""
    return "float" if dtype.kind == "f" else dtype.name


def to_eight_bits(raster: Raster, ranges: Ranges) -> Image.Image | np.ndarray:
    """Pixels scaled to 0..255: an image in mode L or RGB, else uint8 [H, W, C]. Transparent parts become white.

    Values beyond the range are cut off here, before anything is resized; NaN counts as the lowest value. Raises
    ValueError for floats that no range is known of, for an image without a finite value, and for too many channels.
    """
    if not 1 <= raster.channels <= MOST_CHANNELS:
        raise ValueError(f"{raster.channels} channels; gsd takes 1 to {MOST_CHANNELS}")
    pixels = raster.pixels
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).any():
        raise ValueError(NOT_FINITE)
    low, high = range_of(pixels.dtype, ranges)
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


def range_of(dtype: np.dtype, ranges: Ranges) -> Range:
    """The values of a type that become black and white. Raises ValueError for floats of no known range."""
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
