"""Decoding stored images of any format to upright pixels of one size. No torch: worker processes load this."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 100_000_000
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")  # never EPS: Pillow would start Ghostscript

Payload = Path | bytes | np.ndarray | ValueError
"""An image before decoding: a file, its bytes, its pixels (uint8 [H, W] or [H, W, 3]), or why it cannot be read."""


def decode(payload: Payload) -> Image.Image:
    """Open an image upright, in mode L or RGB, with transparent parts on white, whatever mode it was stored in.

    Raises ValueError or OSError when it is not an image or has more than MAX_PIXELS.
    """
    if isinstance(payload, ValueError):
        raise payload
    if isinstance(payload, np.ndarray):
        return Image.fromarray(payload)
    try:
        return _decode(payload if isinstance(payload, Path) else io.BytesIO(payload))
    except UnidentifiedImageError as error:  # its message gives the address of the bytes
        raise ValueError("not one of the image formats") from error
    # Pillow's plugins do not catch these for a damaged file
    except (SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error


def _decode(stream: Path | io.BytesIO) -> Image.Image:
    with Image.open(stream, formats=_FORMATS) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise ValueError(f"{opened.width} x {opened.height} is more than {MAX_PIXELS:,} pixels")
        opened.load()
        ImageOps.exif_transpose(opened, in_place=True)
    image: Image.Image = opened
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
        wide = np.asarray(image, dtype=np.float64)
        # only I;16 states its range; for I and F the values decide
        top = 65535 if image.mode.startswith("I;16") or wide.max() > 255 else 255
        return Image.fromarray((wide.clip(0, top) * (255 / top)).round().astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return _in_mode(image, "L" if image.mode in ("1", "L") else "RGB")


def crop_and_resize(image: Image.Image, size: int, channels: int) -> np.ndarray:
    """Crop the centre square and resize it with antialiasing: uint8 [size, size, channels].

    Expects an image from `decode`: upright, in mode L or RGB.
    """
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
