"""Metadata never decides whether pixels are readable: files without it, and the little of it that matters."""

from __future__ import annotations

import io
import struct
import zlib
from typing import BinaryIO, Literal

from PIL import Image

PNG = b"\x89PNG\r\n\x1a\n"
_KEPT = {b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"}
"""Chunks that are not critical and still decide how pixels look, or which frame is the first."""
CUT_SHORT = "it is cut short: the file ends before the image does"
_ORIENTATION, _SHORT = 0x0112, 3
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def strip_png(file: BinaryIO) -> tuple[BinaryIO, int | None]:
    """A PNG without text, profiles and other chunks that are no pixels, and the bits that its sBIT chunk declares.

    Pillow refuses a file whose compressed text or profile is long, and one whose text is damaged. `file` itself is
    returned where there is nothing to strip. What follows a damaged chunk is kept for Pillow to judge. Raises
    ValueError where pixels are missing.
    """
    file.seek(8)
    kept, stripped, bits = [PNG], False, None
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        body = file.read(length + 4)
        if kind == b"IDAT" and len(body) < length:
            raise ValueError(CUT_SHORT)
        if len(body) < length + 4 or not kind.isalpha():
            kept.append(head + body + file.read())
            break
        if kind == b"sBIT" and 1 <= length <= 4:
            bits = max(body[:length])
        needless = kind[:1].islower() and kind not in _KEPT
        if needless or (kind == b"eXIf" and zlib.crc32(kind + body[:-4]) != int.from_bytes(body[-4:], "big")):
            stripped = True
        else:
            kept.append(head + body)
    if stripped:
        return io.BytesIO(b"".join(kept)), bits
    file.seek(0)
    return file, bits


def strip_jpeg(data: bytes) -> bytes:
    """A JPEG without comments and application segments, except Adobe's, which names the colour space."""
    kept, place = [data[:2]], 2
    while data[place : place + 1] == b"\xff" and place + 4 <= len(data):
        marker = data[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xDA:
            break
        whole_adobe = marker == 0xEE and end - place >= 14
        if whole_adobe or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(data[place:end])
        place = end
    return b"".join([*kept, data[place:]])


def turn_upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; damaged EXIF turns nothing. EXIF is not written back."""
    orientation = _read_orientation(image.info.get("exif"))
    try:
        orientation = orientation or image.getexif().get(_ORIENTATION)  # XMP may name it too
    except Exception:  # damaged metadata raises nearly anything
        return image
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _read_orientation(exif: object) -> int | None:
    """The orientation among the first entries of EXIF, whatever the others hold; None where it is not there."""
    if not isinstance(exif, bytes):
        return None
    data = exif.removeprefix(b"Exif\0\0")
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"

    def number(place: int, size: int) -> int:
        return int.from_bytes(data[place : place + size], order)

    start = number(4, 4)
    for place in range(start + 2, min(start + 2 + 12 * number(start, 2), len(data) - 11), 12):
        if (number(place, 2), number(place + 2, 2), number(place + 4, 4)) == (_ORIENTATION, _SHORT, 1):
            return number(place + 8, 2)
    return None
