"""Decoding stored images of any format to upright pixels of one size. No torch: worker processes load this."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from gsd_cli.data import arrays, metadata, tiff
from gsd_cli.data.raster import AS_STORED, Range, Ranges, Raster, to_eight_bits

MAX_PIXELS = 100_000_000
# never EPS: Pillow would start Ghostscript
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
_WIDE = ("I", "I;16", "I;16B", "I;16L", "F")
_GREY = ("1", "L", "LA", "La", *_WIDE)
_HEIF = (b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1")
_JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL ")

_CUT = re.compile(
    r"truncated|failed to read \d+ bytes|not enough data|unexpected end|buffer is smaller|cut short", re.I
)
"""What readers say of files that end early."""

Payload = Path | bytes | np.ndarray | ValueError
"""An image before decoding: a file, its bytes, its pixels ([H, W] or [H, W, C]), or why it cannot be read."""
Decoded = Image.Image | np.ndarray
"""An upright image of 8 bits: in mode L or RGB, or uint8 [H, W, C] where C is neither 1 nor 3."""


@dataclass(frozen=True)
class Stored:
    """An image as its file holds it: `raster`, or `image` of 8 bits in any of Pillow's modes; both None: not loaded.

    channels: without alpha. wide: whether it has a raster. frames: more than 1 where the file has further pages or
    frames, which are not read. side: pixels of the shorter side.
    """

    channels: int
    wide: bool
    image: Image.Image | None = None
    raster: Raster | None = None
    frames: int = 1
    side: int = 0


def decode(payload: Payload, ranges: Ranges = AS_STORED) -> Decoded:
    """Open an image upright, with transparent parts on white, whatever mode it was stored in.

    ranges: what to scale pixels of other than 8 bits by. Raises ValueError or OSError when it is not an image, has
    more than MAX_PIXELS, or has floats that `ranges` does not cover.
    """
    return to_decoded(open_stored(payload), ranges)


def to_decoded(stored: Stored, ranges: Ranges = AS_STORED) -> Decoded:
    """What `decode` returns, of an image whose pixels are loaded. Raises ValueError."""
    if stored.raster is not None:
        return to_eight_bits(stored.raster, ranges)
    assert stored.image is not None
    return _flatten(stored.image)


def open_stored(payload: Payload, *, header_only: bool = False) -> Stored:
    """Read a file; header_only: without its pixels. Raises ValueError or OSError."""
    if isinstance(payload, ValueError):
        raise payload
    if isinstance(payload, np.ndarray):
        return _as_stored(Raster(payload[..., None] if payload.ndim == 2 else payload))
    try:
        with payload.open("rb") if isinstance(payload, Path) else io.BytesIO(payload) as file:
            return _open(file, header_only)
    except UnidentifiedImageError as error:  # its message gives the address of the bytes
        raise ValueError("not one of the image formats") from error
    except Exception as error:  # the readers of damaged files raise nearly anything
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's
        if _CUT.search(str(error)):
            raise ValueError(metadata.CUT_SHORT) from error
        if isinstance(error, ValueError):
            raise
        raise ValueError(f"it is damaged ({error or type(error).__name__})") from error


def _open(file: BinaryIO, header_only: bool) -> Stored:
    head = file.read(64)
    if not head:
        raise ValueError("the file is empty")
    file.seek(0)
    if head.startswith(arrays.SIGNATURE):
        return _as_stored(arrays.read_npy(file.read(), MAX_PIXELS))
    if head.startswith(tiff.SIGNATURES):
        return _open_tiff(file, header_only)
    if head.startswith(metadata.PNG):
        stripped, bits = metadata.strip_png(file)
        return _open_with_pillow(stripped, header_only, _FORMATS, bits)
    formats = _formats(head)
    if not head.startswith(b"\xff\xd8"):
        return _open_with_pillow(file, header_only, formats)
    try:
        return _open_with_pillow(file, header_only, formats)
    except Exception:  # the same pixels without metadata, which may be what is damaged
        file.seek(0)
        return _open_with_pillow(io.BytesIO(metadata.strip_jpeg(file.read())), header_only, formats)


def _formats(head: bytes) -> tuple[str, ...]:
    """The formats that Pillow may try. Raises ValueError that names a known format nothing here reads."""
    if head.startswith(_JPEG_XL):
        raise ValueError("JPEG XL, which gsd does not read: convert it to PNG")
    if head[4:8] != b"ftyp":
        return _FORMATS
    if head[8:12] in _HEIF and b"avif" not in head:
        if find_spec("pillow_heif") is None:
            raise ValueError("HEIC needs pillow-heif: pip install pillow-heif")
        import_module("pillow_heif").register_heif_opener()
        return (*_FORMATS, "HEIF")
    if not features.check("avif"):
        raise ValueError("AVIF, which this version of Pillow does not read: pip install -U pillow")
    return _FORMATS


def _open_tiff(file: BinaryIO, header_only: bool) -> Stored:
    pages = tiff.read_pages(file)
    if not pages:
        raise ValueError("a TIFF without a page")
    frames = len(pages) if tiff.channel_pages(pages) == 1 else 1
    if header_only and not tiff.is_plain(pages):
        return Stored(tiff.count_channels(pages), True, frames=frames, side=tiff.shortest_side(pages))
    if (raster := tiff.read_raster(pages, MAX_PIXELS)) is not None:
        return _as_stored(raster, frames)
    file.seek(0)
    return replace(_open_with_pillow(file, header_only, ("TIFF",)), frames=frames)


def _open_with_pillow(file: BinaryIO, header_only: bool, formats: tuple[str, ...], bits: int | None = None) -> Stored:
    """bits: what the sBIT chunk of a PNG declares."""
    with Image.open(file, formats=formats) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise ValueError(f"{opened.width} x {opened.height} is more than {MAX_PIXELS:,} pixels")
        kind, channels = opened.format, 1 if opened.mode in _GREY else 3
        frames = 2 if header_only and kind != "MPO" and getattr(opened, "is_animated", False) else 1
        colours = _sixteen_bits(opened)
        if header_only:
            wide = colours is not None or opened.mode in _WIDE
            return Stored(channels, wide, frames=frames, side=min(opened.size))
        if colours is not None:
            return _as_stored(_read_sixteen_bits(file, opened, colours, bits))
        opened.load()
        image = metadata.turn_upright(opened)
    if image.mode not in _WIDE:
        return Stored(channels, False, image)
    pixels = arrays.to_native(np.asarray(image))
    if kind in ("PNG", "PPM", "JPEG2000"):
        pixels = pixels.astype(np.uint16) if pixels.dtype.kind != "f" else pixels
    # Pillow scales PPM and JPEG 2000 to all 16 bits
    declared = _declared(pixels, bits) if kind == "PNG" else (0.0, 65535.0) if pixels.dtype == np.uint16 else None
    return _as_stored(Raster(pixels[..., None], None if kind == "TIFF" else declared))


def _as_stored(raster: Raster, frames: int = 1) -> Stored:
    return Stored(raster.channels, True, raster=raster, frames=frames, side=min(raster.pixels.shape[:2]))


def _sixteen_bits(image: Image.Image) -> str | None:
    """RGB or RGBA for a PNG of 16-bit colours, of which Pillow keeps 8."""
    tiles = getattr(image, "tile", None)
    raw = str(tiles[0][3]) if image.format == "PNG" and tiles else ""
    return raw.removesuffix(";16B") if raw in ("RGB;16B", "RGBA;16B") else None


def _read_sixteen_bits(file: BinaryIO, opened: Image.Image, colours: str, bits: int | None) -> Raster:
    """All 16 bits: Pillow gives the upper byte of each sample, or the lower one if bytes are marked as swapped."""
    opened.load()
    upper = metadata.turn_upright(opened)
    file.seek(0)
    with Image.open(file, formats=("PNG",)) as again:
        again.tile = [tile._replace(args=f"{colours};16L") for tile in again.tile]
        again.load()
        lower = metadata.turn_upright(again)
    pixels = np.asarray(upper).astype(np.uint16) << 8 | np.asarray(lower)
    return Raster(pixels, _declared(pixels, bits), alpha=colours == "RGBA")


def _declared(pixels: np.ndarray, bits: int | None) -> Range | None:
    """The range of a PNG by its sBIT. By the standard samples of fewer bits are scaled up; some programs do not."""
    if bits is None:
        return None
    return (0, 2**bits - 1) if pixels.max() < 2**bits else (0, 65535)


def _flatten(image: Image.Image) -> Image.Image:
    """An image of 8 bits in mode L or RGB, with transparent parts on white."""
    if image.mode in ("LA", "La") or (image.mode == "L" and "transparency" in image.info):
        grey = image.convert("LA")
        image = Image.new("L", grey.size, 255)
        image.paste(grey.getchannel("L"), mask=grey.getchannel("A"))
    elif image.mode in ("PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return _in_mode(image, "L" if image.mode in ("1", "L") else "RGB")


def crop_and_resize(image: Decoded, size: int, channels: int) -> np.ndarray:
    """Crop the centre square and resize it with antialiasing: uint8 [size, size, channels].

    Expects what `decode` returns. Raises ValueError where an image cannot have that many channels.
    """
    if isinstance(image, np.ndarray) or channels not in (1, 3):
        found = image.shape[2] if isinstance(image, np.ndarray) else len(image.getbands())
        if not isinstance(image, np.ndarray) or found != channels:
            raise ValueError(f"{found} channels, not {channels}")
        bands = [Image.fromarray(np.ascontiguousarray(image[..., c])) for c in range(channels)]
        return np.concatenate([crop_and_resize(band, size, 1) for band in bands], 2)
    image = _in_mode(image, "L" if channels == 1 else "RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    if image.width != image.height:
        image = image.crop((left, top, left + side, top + side))
    if side != size:
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(size, size, channels)


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)
