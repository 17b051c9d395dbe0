"""PNG files without compression: fast to write, and the same bytes on every machine."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

import numpy as np

_STORED = 65535
"""Bytes of the longest stored block of deflate (RFC 1951, 3.2.4)."""


def encode_png(image: np.ndarray) -> bytes:
    """Encode an image, uint8 [H, W, 1] or [H, W, 3]. EDM's tool stores its images uncompressed too.

    Pillow filters every row even at compress_level=0, which takes seven times as long. Stored blocks are the same
    bytes with every version of zlib.
    """
    height, width, channels = image.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # filter type 0 before each row
    rows[:, 1:] = image.reshape(height, -1)
    raw = rows.data.cast("B")
    data: list[bytes | memoryview] = [b"\x78\x01"]
    for start in range(0, len(raw), _STORED):
        block = raw[start : start + _STORED]
        final = start + _STORED >= len(raw)
        data += [struct.pack("<BHH", final, len(block), len(block) ^ 0xFFFF), block]
    data.append(struct.pack(">I", zlib.adler32(raw)))
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    chunks = [*_chunk(b"IHDR", [header]), *_chunk(b"IDAT", data), *_chunk(b"IEND", [])]
    return b"".join([b"\x89PNG\r\n\x1a\n", *chunks])


def _chunk(kind: bytes, body: Sequence[bytes | memoryview]) -> list[bytes | memoryview]:
    check = zlib.crc32(kind)
    for part in body:
        check = zlib.crc32(part, check)
    return [struct.pack(">I", sum(map(len, body))), kind, *body, struct.pack(">I", check)]
