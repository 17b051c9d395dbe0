"""TIFF files that Pillow reads with fewer bits or channels than they hold, or not at all.

Pillow cuts 16-bit colours to 8 bits, leaves out channels after the third, and knows no mode for most layouts of
scientific images. Blocks that are not plain or deflated bytes are unpacked by Pillow's libtiff.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from gsd_cli.data.raster import MOST_CHANNELS, Range, Raster, upright

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MOST_PAGES = 4096
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}
_GREY, _RGB = (0, 1), 2
_ALPHAS = (1, 2)


class Page:
    """The tags of one page by their names in the standard (TIFF 6.0)."""

    def __init__(self, tags: ImageFileDirectory_v2, big_endian: bool):
        self.tags, self.big_endian = tags, big_endian
        self.width, self.height = int(tags[256]), int(tags[257])
        self.bits = self._all(258, (1,))
        self.samples = int(tags.get(277, 1))
        self.photometric = int(tags.get(262, 1))
        self.compression = int(tags.get(259, 1))
        self.kind = _KINDS.get(self._all(339, (1,))[0], "")
        extras = list(self._all(338, ()))
        # RGB with a fourth sample of no stated meaning: an alpha channel, as every reader takes it
        if self.photometric == _RGB and self.samples == 4 and not extras:
            extras = [2]
        self.alpha = extras[0] if len(extras) == 1 and extras[0] in _ALPHAS else 0

    def _all(self, tag: int, default: Sequence[Any]) -> tuple[Any, ...]:
        value = self.tags.get(tag, default)
        return tuple(value) if isinstance(value, tuple | list) else (value,)

    @property
    def is_plain(self) -> bool:
        """Whether Pillow reads all of it."""
        if self.photometric not in (*_GREY, _RGB) or self.compression in (6, 7):
            return True
        channels = 1 if self.photometric in _GREY else 3
        return max(self.bits) <= 8 and self.kind == "u" and self.samples - bool(self.alpha) == channels

    @property
    def declared(self) -> Range | None:
        """The range of values, from tags 340 and 341, 280 and 281, or packed bits."""
        for low, high in ((340, 341), (280, 281)):
            if high in self.tags and (low in self.tags or self.kind == "u"):
                found = float(min(self._all(low, (0,)))), float(max(self._all(high, (0,))))
                if found[0] < found[1]:
                    return found
        return (0, 2 ** self.bits[0] - 1) if self.bits[0] not in (8, 16, 32, 64) and self.kind == "u" else None

    @property
    def dtype(self) -> np.dtype:
        """The type of a sample, in the byte order of the file."""
        bits = next(width for width in (8, 16, 32, 64) if width >= self.bits[0])
        return np.dtype(f"{'>' if self.big_endian else '<'}{self.kind}{bits // 8}")


def read_pages(file: BinaryIO) -> list[Page]:
    """The pages of a TIFF. Raises nearly anything where it is damaged."""
    file.seek(0)
    head = file.read(8)
    head += file.read(8) if head[2:4] in (b"+\0", b"\0+") else b""
    tags = ImageFileDirectory_v2(head)
    offset, seen, pages = tags.next, set[int](), list[Page]()
    while offset and offset not in seen and len(pages) < MOST_PAGES:
        seen.add(offset)
        tags = ImageFileDirectory_v2(head)
        file.seek(offset)
        tags.load(file)
        pages.append(Page(tags, head[:2] == b"MM"))
        offset = tags.next
    return pages


def read_raster(file: BinaryIO, pages: Sequence[Page], most_pixels: int) -> Raster | None:
    """The first page, or the pages that are channels of one image; None where Pillow reads all of it.

    Raises ValueError, or nearly anything where the file is damaged.
    """
    first = pages[0]
    channels = channel_pages(pages)
    if is_plain(pages):
        return None
    if first.width * first.height * max(channels, first.samples) > most_pixels * MOST_CHANNELS:
        raise ValueError(f"{first.width} x {first.height} with {first.samples} channels is too large")
    if first.width * first.height > most_pixels:
        raise ValueError(f"{first.width} x {first.height} is more than {most_pixels:,} pixels")
    pixels = np.concatenate([_read_page(file, page) for page in pages[:channels]], 2)
    if first.alpha == 1:  # colours are stored multiplied by alpha
        share = pixels[..., -1:].astype(np.float64)
        top = share.max() or 1
        colours = (pixels[..., :-1] / np.where(share > 0, share / top, 1)).clip(0, top)
        pixels = np.concatenate([colours.astype(pixels.dtype), pixels[..., -1:]], 2)
    orientation = first.tags.get(274, 1)
    return Raster(
        upright(pixels, orientation if isinstance(orientation, int) else 1),
        first.declared,
        alpha=bool(first.alpha),
        inverted=first.photometric == 0 and not first.alpha,
    )


def is_plain(pages: Sequence[Page]) -> bool:
    """Whether Pillow reads all of the image."""
    return pages[0].is_plain and channel_pages(pages) == 1


def count_channels(pages: Sequence[Page]) -> int:
    """The channels of the image, without alpha."""
    return max(channel_pages(pages), pages[0].samples - bool(pages[0].alpha))


def channel_pages(pages: Sequence[Page]) -> int:
    """How many pages are channels of one image, as ImageJ and OME declare it; else 1."""
    text = str(pages[0].tags.get(270, ""))
    if text.startswith("ImageJ="):
        found = dict(re.findall(r"^(channels|slices|frames)=(\d+)", text, re.MULTILINE))
        count, others = int(found.get("channels", 1)), {found.get("slices", "1"), found.get("frames", "1")}
    elif "<Pixels" in text:
        sizes = dict(re.findall(r'\bSize([CZT])="(\d+)"', text))
        count, others = int(sizes.get("C", 1)), {sizes.get("Z", "1"), sizes.get("T", "1")}
    else:
        return 1
    same = {(page.width, page.height, page.samples, page.bits, page.kind) for page in pages}
    fits = count == len(pages) and others == {"1"} and len(same) == 1 and pages[0].samples == 1
    return count if fits else 1


def _read_page(file: BinaryIO, page: Page) -> np.ndarray:
    """All samples of a page, [H, W, samples]."""
    if len(set(page.bits)) > 1 or not page.kind or int(page.tags.get(266, 1)) != 1:
        raise ValueError(f"a TIFF with samples of {page.bits} bits")
    tiled, apart = 322 in page.tags, int(page.tags.get(284, 1)) == 2
    wide = int(page.tags[322]) if tiled else page.width
    high = int(page.tags[323]) if tiled else min(int(page.tags.get(278, page.height)), page.height)
    offsets, counts = page._all(324 if tiled else 273, ()), page._all(325 if tiled else 279, ())
    across, down, each = -(-page.width // wide), -(-page.height // high), 1 if apart else page.samples
    if wide * high > 4 * page.width * page.height + 2**20 or len(offsets) != len(counts):
        raise ValueError("a TIFF whose blocks do not fit the image")
    if len(offsets) != across * down * (page.samples if apart else 1):
        raise ValueError("a TIFF that lacks some of its blocks")
    whole = np.zeros((page.height, page.width, page.samples), page.dtype.newbyteorder("="))
    for index, (offset, count) in enumerate(zip(offsets, counts, strict=True)):
        plane, cell = divmod(index, across * down)
        top, left = cell // across * high, cell % across * wide
        rows = high if tiled else min(high, page.height - top)
        file.seek(offset)
        block = _numbers(page, file.read(count), rows, wide, each)
        target = whole[top : top + rows, left : left + wide, plane : plane + each]
        target[:] = block[: target.shape[0], : target.shape[1]]
    return whole


def _numbers(page: Page, data: bytes, rows: int, wide: int, each: int) -> np.ndarray:
    """The samples of one block, [rows, wide, each]."""
    bits, predictor = page.bits[0], int(page.tags.get(317, 1))
    row_bytes = -(-wide * each * bits // 8)
    data = _unpack(page.compression, data, rows, row_bytes)
    if len(data) < rows * row_bytes:
        raise ValueError("the file ends before the image does")
    raw = np.frombuffer(data, np.uint8, rows * row_bytes).reshape(rows, row_bytes)
    size = page.dtype.itemsize
    if predictor == 3:  # floats: bytes are sorted by significance, and differences taken along the row
        summed = np.cumsum(raw.reshape(rows, -1, each), 1, dtype=np.uint8).reshape(rows, size, wide * each)
        found = np.ascontiguousarray(summed.swapaxes(1, 2)).view(f">f{size}").reshape(rows, wide, each)
        return found.astype(page.dtype.newbyteorder("="))
    if bits == 8 * size:
        found = raw.view(page.dtype).reshape(rows, wide, each).astype(page.dtype.newbyteorder("="))
    else:
        ones = np.unpackbits(raw, axis=1)[:, : wide * each * bits].reshape(rows, wide, each, bits)
        found = (ones @ (1 << np.arange(bits - 1, -1, -1))).astype(page.dtype.newbyteorder("="))
    return np.cumsum(found, 1, dtype=found.dtype) if predictor == 2 else found


def _unpack(compression: int, data: bytes, rows: int, row_bytes: int) -> bytes:
    if compression == 1:
        return data
    if compression in (8, 32946):
        return zlib.decompressobj().decompress(data, rows * row_bytes)
    return _unpack_with_libtiff(compression, data, rows, row_bytes)


def _unpack_with_libtiff(compression: int, data: bytes, rows: int, row_bytes: int) -> bytes:
    """The bytes of a block: Pillow reads them as a grey image of 8 bits, `row_bytes` wide."""
    tags = ImageFileDirectory_v2()
    for tag, value in ((256, row_bytes), (257, rows), (258, 8), (259, compression), (262, 1), (273, 0), (277, 1),
                       (278, rows), (279, len(data))):  # fmt: skip
        tags[tag] = value
    # writing adds the place behind the tags to the offset of the block (273)
    file = b"II*\0" + (8).to_bytes(4, "little") + tags.tobytes(8) + data
    with Image.open(io.BytesIO(file), formats=("TIFF",)) as image:
        return image.tobytes()
