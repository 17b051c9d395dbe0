"""PNG files without compression, written fast and the same everywhere."""

from __future__ import annotations

import struct
import zlib

import numpy as np

_STORED = 65535
"""Longest stored block of deflate (RFC 1951, 3.2.4)."""


def encode_png(image: np.ndarray) -> bytes:
    """image: uint8 [H, W, 1] or [H, W, 3]. EDM's tool stores its pictures uncompressed too.

    Pillow filters every row even at compress_level=0, which takes seven times as long; and stored blocks are
    the same bytes whichever zlib is installed.
    """
    height, width, channels = image.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # filter type 0 before each row
    rows[:, 1:] = image.reshape(height, -1)
    raw = rows.tobytes()
    blocks = [b"\x78\x01"]
    for start in range(0, len(raw), _STORED):
        block = raw[start : start + _STORED]
        final = start + _STORED >= len(raw)
        blocks += [struct.pack("<BHH", final, len(block), len(block) ^ 0xFFFF), block]
    blocks.append(struct.pack(">I", zlib.adler32(raw)))
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", b"".join(blocks)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, body) for kind, body in chunks)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
