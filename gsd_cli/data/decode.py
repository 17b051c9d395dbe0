"""From stored pictures of any kind to upright pixels of one size. No torch: worker processes start with this."""

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
"""A picture not yet decoded: a file, its bytes, its pixels (uint8 [H, W] or [H, W, 3]), or why it cannot be had."""


def decode(payload: Payload) -> Image.Image:
    """Open a picture upright, in mode L or RGB, alpha laid on white; whatever mode it was stored in.

    Raises ValueError or OSError when it is not a picture or is absurdly large.
    """
    if isinstance(payload, ValueError):
        raise payload
    if isinstance(payload, np.ndarray):
        return Image.fromarray(payload)
    try:
        return _decode(payload if isinstance(payload, Path) else io.BytesIO(payload))
    except UnidentifiedImageError as error:  # it names bytes by their address
        raise ValueError("none of the picture formats") from error
    # what Pillow's plugins let through from a damaged file
    except (SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error


def _decode(stream: Path | io.BytesIO) -> Image.Image:
    with Image.open(stream, formats=_FORMATS) as opened:
        if opened.width * opened.height > MAX_PIXELS:
            raise ValueError(f"{opened.width} x {opened.height} is more than {MAX_PIXELS:,} pixels")
        opened.load()
        ImageOps.exif_transpose(opened, in_place=True)
    picture: Image.Image = opened
    if picture.mode in ("I", "I;16", "I;16B", "I;16L", "F"):
        wide = np.asarray(picture, dtype=np.float64)
        # only I;16 says how wide it is; in I and F the values must tell
        top = 65535 if picture.mode.startswith("I;16") or wide.max() > 255 else 255
        return Image.fromarray((wide.clip(0, top) * (255 / top)).round().astype(np.uint8))
    if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return _in_mode(picture, "L" if picture.mode in ("1", "L") else "RGB")


def fit_picture(picture: Image.Image, size: int, channels: int) -> np.ndarray:
    """Centre crop to a square and resize with antialiasing: uint8 [size, size, channels].

    Expects a picture as `decode` gives it: upright, in mode L or RGB.
    """
    picture = _in_mode(picture, "L" if channels == 1 else "RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    if picture.width != picture.height:
        picture = picture.crop((left, top, left + side, top + side))
    if side != size:
        picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(picture).reshape(size, size, channels)


def _in_mode(picture: Image.Image, mode: str) -> Image.Image:
    return picture if picture.mode == mode else picture.convert(mode)
