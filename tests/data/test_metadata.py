"""Metadata that is long, damaged or odd: the pixels are read, and turned where the orientation can be read."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from gsd_cli.data.decode import decode, open_stored
from gsd_cli.data.metadata import strip_jpeg
from tests.support.images import NOISE, encoded

PIXELS = np.asarray(NOISE)
SMOOTH = Image.fromarray(np.add.outer(np.arange(16), np.arange(24)).astype(np.uint8) * 5)


def chunk(kind: bytes, body: bytes, check: int | None = None) -> bytes:
    crc = zlib.crc32(kind + body) if check is None else check
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def with_chunk(extra: bytes) -> bytes:
    """A PNG with a chunk after its header."""
    whole = encoded(NOISE)
    return whole[:33] + extra + whole[33:]


def long_text(*, zip: bool) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("workflow", '{"node": 1}' * 200_000, zip=zip)
    info.add_text("parameters", "x" * 2_000_000, zip=zip)
    return encoded(NOISE, pnginfo=info)


PNGS: dict[str, Callable[[], bytes]] = {
    "long compressed text": lambda: long_text(zip=True),
    "long text": lambda: long_text(zip=False),
    "a long profile": lambda: encoded(NOISE, icc_profile=bytes(3_000_000)),
    "a profile that is none": lambda: with_chunk(chunk(b"iCCP", b"x\0\0no deflate")),
    "text with a wrong checksum": lambda: with_chunk(chunk(b"tEXt", b"a\0b", 7)),
    "EXIF with a wrong checksum": lambda: with_chunk(chunk(b"eXIf", b"MM\0*", 7)),
    "EXIF that is none": lambda: with_chunk(chunk(b"eXIf", b"nonsense")),
    "text in a compression of no kind": lambda: with_chunk(chunk(b"zTXt", b"a\0\x09zz")),
    "a chunk of a private kind": lambda: with_chunk(chunk(b"prVt", bytes(1000))),
}


@pytest.mark.parametrize("name", PNGS)
def test_a_png_is_its_pixels(name: str) -> None:
    assert np.array_equal(np.asarray(decode(PNGS[name]())), PIXELS)
    assert open_stored(PNGS[name](), header_only=True).channels == 3


def test_transparency_is_no_metadata() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "b")
    found = decode(encoded(image, transparency=0, pnginfo=info))
    assert isinstance(found, Image.Image)
    assert found.getpixel((0, 0)) == (255, 255, 255)


def exif(*entries: bytes, order: str = ">") -> bytes:
    """EXIF of raw IFD entries of 12 bytes each, as cameras and editors write them."""
    head = b"MM\0*" if order == ">" else b"II*\0"
    return b"Exif\0\0" + head + struct.pack(f"{order}IH", 8, len(entries)) + b"".join(entries) + bytes(4)


def entry(tag: int, kind: int, count: int, value: bytes, order: str = ">") -> bytes:
    return struct.pack(f"{order}HHI", tag, kind, count) + value.ljust(4, b"\0")


TURN = entry(0x0112, 3, 1, struct.pack(">H", 6))
EXIFS = {
    "a rational of one byte": exif(entry(0x011A, 5, 1, b"\xff\xff\xff\xff"), TURN),
    "text where a number belongs": exif(TURN, entry(0x0131, 3, 40_000, b"abcd")),
    "a value of no kind": exif(TURN, entry(0x9999, 77, 3, b"abcd")),
    "a signed rational in a place for numbers": exif(TURN, entry(0x0128, 10, 1, b"\0\0\0\x08")),
    "an undefined tag of four bytes": exif(TURN, entry(0xA301, 7, 1, b"\x01")),
    "bytes for a text": exif(TURN, entry(0x010E, 1, 4, b"\xff\xfe\xfd\xfc")),
    "an offset behind the end": exif(TURN, entry(0x8769, 4, 1, b"\xff\xff\xff\xf0")),
}


@pytest.mark.parametrize("name", EXIFS)
@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_only_the_orientation_of_exif_is_read(name: str, kind: str) -> None:
    options = {"lossless": True} if kind == "webp" else {"quality": 100}
    payload = encoded(SMOOTH.convert("RGB"), kind, exif=EXIFS[name], **options)
    upright = np.rot90(np.asarray(SMOOTH.convert("RGB")), -1).astype(int)
    found = np.asarray(decode(payload)).astype(int)
    assert found.shape == upright.shape
    assert np.abs(found - upright).max() < 12


DAMAGES = {
    "EXIF that ends early": b"\xff\xe1\x00\x10Exif\0\0MM\0*\0\0\0\x08",
    "a profile in pieces that are not there": b"\xff\xe2\x00\x14ICC_PROFILE\0\x01\x09abcd",
    "a multi-picture index of nothing": b"\xff\xe2\x00\x0eMPF\0MM\0*\0\0\xff\xff",
    "Photoshop's block": b"\xff\xed\x00\x1ePhotoshop 3.0\x008BIM\x03\xed\0\0\0\0\xff\xff",
    "an Adobe segment of no length": b"\xff\xee\x00\x07Adobe",
    "a comment of other bytes": b"\xff\xfe\x00\x06\xff\xd8\xff\xd9",
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_jpeg_with_damaged_segments_is_its_pixels(name: str) -> None:
    whole = encoded(SMOOTH, "jpeg", quality=100)
    found = np.asarray(decode(whole[:2] + DAMAGES[name] + whole[2:]))
    assert np.array_equal(found, np.asarray(decode(whole)))


def test_a_jpeg_without_metadata_has_the_same_pixels() -> None:
    cmyk = encoded(NOISE.convert("CMYK"), "jpeg", exif=exif(TURN), comment=b"x" * 100)
    stripped = strip_jpeg(cmyk)
    assert len(stripped) < len(cmyk) - 100
    with Image.open(io.BytesIO(stripped)) as one, Image.open(io.BytesIO(cmyk)) as other:
        assert np.array_equal(np.asarray(one), np.asarray(other))


def test_what_cannot_be_read_is_named_with_its_remedy() -> None:
    heic = b"\0\0\0\x18ftypheic" + bytes(64)
    with pytest.raises(ValueError, match="HEIC needs pillow-heif"):
        decode(heic)
    with pytest.raises(ValueError, match="JPEG XL"):
        decode(b"\xff\x0a" + bytes(64))


@pytest.mark.parametrize("kind", ["avif", "jpeg2000"])
def test_newer_formats_are_read(kind: str) -> None:
    found = np.asarray(decode(encoded(SMOOTH.convert("RGB"), kind, **({"quality": 100} if kind == "avif" else {}))))
    assert np.abs(found.astype(int) - np.asarray(SMOOTH.convert("RGB"))).max() < 12
