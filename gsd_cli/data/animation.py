"""A sequence of frames as a strip, an animation, a film or a folder."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gsd_cli.base.atomic import atomic_file
from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.data.pixels import tile, to_pil, to_uint8

FORMATS = (".png", ".gif", ".webp", ".mp4")
SMALLEST_SIDE = 128
"""Animations of tiny frames are enlarged to this, without smoothing."""
LATENTS = "latents.npz"


def require_format(suffix: str) -> None:
    """Fail early: exit 2 for an extension that is not written, exit 3 for .mp4 without PyAV."""
    if suffix not in FORMATS:
        raise GsdError(f"cannot write {suffix} files", hint=f"{', '.join(FORMATS)}, or a folder", code=ExitCode.USAGE)
    if suffix == ".mp4":
        _pyav()


def write_film(frames: Tensor, target: Path, fps: float, latents: Tensor | None = None) -> list[Path]:
    """Write frames [N, C, H, W] in [-1, 1]: one file by its extension, else a folder of numbered pictures.

    latents [N, ...] go into the folder as latents.npz, under the name z.
    """
    if target.suffix:
        payload = film_bytes(frames, target.suffix.lower(), fps)
        with atomic_file(target) as temporary:
            temporary.write_bytes(payload)
        return [target]
    written = []
    for i, frame in enumerate(frames):
        path = target / f"frame-{i:05d}.png"
        with atomic_file(path) as temporary:
            to_pil(frame).save(temporary)
        written.append(path)
    if latents is not None:
        with atomic_file(target / LATENTS) as temporary:
            np.savez(temporary, z=latents.numpy())
        written.append(target / LATENTS)
    return written


def film_bytes(frames: Tensor, suffix: str, fps: float) -> bytes:
    """Frames as a strip (.png: all side by side), an animation (.gif, .webp) or a film (.mp4).

    Raises GsdError: exit 2 for other extensions, exit 3 for .mp4 where PyAV is not installed.
    """
    require_format(suffix)
    if suffix == ".mp4":
        return _mp4(frames, fps)
    buffer = io.BytesIO()
    if suffix == ".png":
        to_pil(tile(frames, len(frames))).save(buffer, "png")
        return buffer.getvalue()
    pictures = [to_pil(frame) for frame in _enlarged(frames)]
    milliseconds = max(1, round(1000 / fps))
    pictures[0].save(
        buffer, suffix[1:], save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0, lossless=True
    )
    return buffer.getvalue()


def _enlarged(frames: Tensor) -> Tensor:
    scale = max(1, -(-SMALLEST_SIDE // min(frames.shape[2:])))
    return frames.repeat_interleave(scale, 2).repeat_interleave(scale, 3)


def _mp4(frames: Tensor, fps: float) -> bytes:
    """H.264 where the library has an encoder for it, else MPEG-4."""
    av = _pyav()
    pixels = to_uint8(_enlarged(frames))
    # 4:2:0 wants even sides
    pixels = torch.nn.functional.pad(pixels, (0, pixels.shape[3] % 2, 0, pixels.shape[2] % 2))
    arrays = pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1000))
        stream.height, stream.width, stream.pix_fmt = *arrays.shape[1:3], "yuv420p"
        for array in arrays:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def _pyav() -> Any:
    try:
        import av
    except ImportError as error:
        raise GsdError(
            "writing .mp4 needs PyAV", hint="pip install 'gsd-cli[film]', or write a .gif or .webp"
        ) from error
    return av
