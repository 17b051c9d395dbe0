"""TIFF files that Pillow reads with fewer bits or channels than they hold, or not at all: tifffile reads those.

Pillow cuts 16-bit colours to 8 bits, leaves out channels after the third, and knows no mode for most layouts of
scientific images.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, BinaryIO, cast

import numpy as np
from tifffile import TiffFile, TiffPage

from gsd_cli.data.arrays import to_native
from gsd_cli.data.raster import MOST_CHANNELS, Range, Raster, upright

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MOST_PAGES = 4096
_GREY, _RGB = (0, 1), 2
_JPEG = (6, 7)
_CODECS = (1, 5, 8, 32773, 32946, 34925, 50000)
"""Plain, LZW, deflate, PackBits, LZMA, Zstandard: of the others some decoders crash on damaged files."""
_UNSIGNED = (1, 4)
_ALPHAS = (1, 2)

# it logs each oddity of a file, and one module prints here
logging.getLogger("tifffile").addHandler(logging.NullHandler())


@dataclass(frozen=True)
class Page:
    """One page, and what its tags declare (TIFF 6.0)."""

    page: TiffPage

    def tag(self, code: int) -> tuple[Any, ...]:
        """The values of a tag; none where the page lacks it."""
        value = self.page.tags.valueof(code)
        return () if value is None else tuple(value) if isinstance(value, tuple | list) else (value,)

    @property
    def layout(self) -> tuple[Any, ...]:
        """What the channels of one image share."""
        page = self.page
        return page.imagewidth, page.imagelength, page.samplesperpixel, page.bitspersample, page.sampleformat

    @property
    def is_unsigned(self) -> bool:
        """Whether samples are whole numbers from 0 on."""
        return int(self.page.sampleformat) in _UNSIGNED

    @property
    def alpha(self) -> int:
        """1: the last sample is alpha, and colours are multiplied by it. 2: they are not. 0: no alpha."""
        extras = [int(extra) for extra in self.page.extrasamples]
        # RGB with a fourth sample of no stated meaning: an alpha channel, as every reader takes it
        if self.page.photometric == _RGB and self.page.samplesperpixel == 4 and not extras:
            return 2
        return extras[0] if len(extras) == 1 and extras[0] in _ALPHAS else 0

    @property
    def is_plain(self) -> bool:
        """Whether Pillow reads all of it."""
        page = self.page
        if page.photometric not in (*_GREY, _RGB) or page.compression in _JPEG:
            return True
        channels = 1 if page.photometric in _GREY else 3
        return page.bitspersample <= 8 and self.is_unsigned and page.samplesperpixel - bool(self.alpha) == channels

    @property
    def declared(self) -> Range | None:
        """The range of values, from tags 340 and 341, 280 and 281, or packed bits."""
        for low, high in ((340, 341), (280, 281)):
            if self.tag(high) and (self.tag(low) or self.is_unsigned):
                found = float(min(self.tag(low) or (0,))), float(max(self.tag(high)))
                if found[0] < found[1]:
                    return found
        bits = self.page.bitspersample
        return (0, 2**bits - 1) if bits not in (8, 16, 32, 64) and self.is_unsigned else None

    def pixels(self) -> np.ndarray:
        """All samples, [H, W, samples]. Raises ValueError where some are missing."""
        page = self.page
        if page.compression not in _CODECS:
            raise ValueError(f"a TIFF of compression {_name(page.compression)}, which gsd does not read")
        if len(page.dataoffsets) != math.prod(page.chunked) or len(page.databytecounts) != len(page.dataoffsets):
            raise ValueError("a TIFF that lacks some of its blocks")
        if math.prod(page.chunks) > 4 * math.prod(page.shaped) + 2**20:
            raise ValueError("a TIFF whose blocks do not fit the image")
        found = page.asarray(squeeze=False, maxworkers=1)  # [planes, depth, H, W, samples]
        if found.ndim != 5 or found.shape[1] != 1:
            raise ValueError(f"a TIFF of shape {page.shape}")
        return to_native(np.moveaxis(found[:, 0], 0, 2).reshape(*found.shape[2:4], -1))


def _name(code: int) -> str:
    return str(getattr(code, "name", code)).replace("_", " ")


def read_pages(file: BinaryIO) -> list[Page]:
    """The pages of a TIFF, which read from the file. Raises nearly anything where it is damaged."""
    pages = islice(TiffFile(file, name="image").pages, MOST_PAGES)
    return [Page(cast(TiffPage, page)) for page in pages]


def read_raster(pages: Sequence[Page], most_pixels: int) -> Raster | None:
    """The first page, or the pages that are channels of one image; None where Pillow reads all of it.

    Raises ValueError, or nearly anything where the file is damaged.
    """
    if is_plain(pages):
        return None
    first = pages[0]
    width, height, samples = first.page.imagewidth, first.page.imagelength, first.page.samplesperpixel
    channels = channel_pages(pages)
    if width * height > most_pixels:
        raise ValueError(f"{width} x {height} is more than {most_pixels:,} pixels")
    if max(channels, samples) > MOST_CHANNELS + 1:
        raise ValueError(f"{max(channels, samples)} channels; gsd takes 1 to {MOST_CHANNELS}")
    pixels = np.concatenate([page.pixels() for page in pages[:channels]], 2)
    if first.alpha == 1:  # colours are stored multiplied by alpha
        share = pixels[..., -1:].astype(np.float64)
        top = share.max() or 1
        colours = (pixels[..., :-1] / np.where(share > 0, share / top, 1)).clip(0, top)
        pixels = np.concatenate([colours.astype(pixels.dtype), pixels[..., -1:]], 2)
    orientation = (first.tag(274) or (1,))[0]
    return Raster(
        upright(pixels, orientation if isinstance(orientation, int) else 1),
        first.declared,
        alpha=bool(first.alpha),
        inverted=first.page.photometric == 0 and not first.alpha,
    )


def is_plain(pages: Sequence[Page]) -> bool:
    """Whether Pillow reads all of the image."""
    return pages[0].is_plain and channel_pages(pages) == 1


def shortest_side(pages: Sequence[Page]) -> int:
    """Of the image, in pixels."""
    return min(pages[0].page.imagewidth, pages[0].page.imagelength)


def count_channels(pages: Sequence[Page]) -> int:
    """The channels of the image, without alpha."""
    return max(channel_pages(pages), pages[0].page.samplesperpixel - bool(pages[0].alpha))


def channel_pages(pages: Sequence[Page]) -> int:
    """How many pages are channels of one image, as ImageJ and OME declare it; else 1."""
    text = pages[0].page.description
    if text.startswith("ImageJ="):
        found = dict(re.findall(r"^(channels|slices|frames)=(\d+)", text, re.MULTILINE))
        count, others = int(found.get("channels", 1)), {found.get("slices", "1"), found.get("frames", "1")}
    elif "<Pixels" in text:
        sizes = dict(re.findall(r'\bSize([CZT])="(\d+)"', text))
        count, others = int(sizes.get("C", 1)), {sizes.get("Z", "1"), sizes.get("T", "1")}
    else:
        return 1
    same = {page.layout for page in pages}
    fits = count == len(pages) and others == {"1"} and len(same) == 1 and pages[0].page.samplesperpixel == 1
    return count if fits else 1
