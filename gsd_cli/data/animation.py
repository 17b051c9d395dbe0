"""Writing a sequence of frames: as a strip, an animation, a video or a folder. ENCODERS has one function per format."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gsd_cli.base.atomic import atomic_file
from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.data.pixels import tile, to_pil, to_uint8

SMALLEST_SIDE = 128
"""Animations of smaller frames are enlarged to this many pixels, without smoothing."""
LATENTS = "latents.npz"


def require_animation_format(suffix: str) -> None:
    """Raise GsdError where a format cannot be written: exit 2 for an unknown suffix, exit 3 for .mp4 without PyAV."""
    if suffix not in ENCODERS:
        raise GsdError(f"cannot write {suffix} files", hint=f"{', '.join(ENCODERS)}, or a folder", code=ExitCode.USAGE)
    if suffix == ".mp4":
        _import_pyav()


def write_animation(frames: Tensor, target: Path, fps: float, latents: Tensor | None = None) -> list[Path]:
    """Write frames [N, C, H, W] in [-1, 1]: one file by its suffix, else a folder of numbered images.

    latents [N, ...] go into the folder as latents.npz, under the name z. Returns the paths written.
    """
    if target.suffix:
        payload = encode_animation(frames, target.suffix.lower(), fps)
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


def encode_animation(frames: Tensor, suffix: str, fps: float) -> bytes:
    """Encode frames [N, C, H, W] in [-1, 1] as a file with this suffix. Raises what `require_animation_format` does."""
    require_animation_format(suffix)
    return ENCODERS[suffix](frames, fps)


# -- one function per format --------------------------------------------------------------------


def _encode_strip(frames: Tensor, fps: float) -> bytes:
    """All frames side by side, in one PNG."""
    buffer = io.BytesIO()
    to_pil(tile(frames, len(frames))).save(buffer, "png")
    return buffer.getvalue()


def _encode_with_pillow(frames: Tensor, fps: float, format_: str) -> bytes:
    buffer = io.BytesIO()
    first, *others = [to_pil(frame) for frame in _enlarge(frames)]
    milliseconds = max(1, round(1000 / fps))
    first.save(buffer, format_, save_all=True, append_images=others, duration=milliseconds, loop=0, lossless=True)
    return buffer.getvalue()


def _encode_mp4(frames: Tensor, fps: float) -> bytes:
    """H.264 where the library has an encoder for it, else MPEG-4."""
    av = _import_pyav()
    pixels = to_uint8(_enlarge(frames[:, :3] if frames.shape[1] >= 3 else frames[:, :1]))
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


def _enlarge(frames: Tensor) -> Tensor:
    scale = max(1, -(-SMALLEST_SIDE // min(frames.shape[2:])))
    return frames.repeat_interleave(scale, 2).repeat_interleave(scale, 3)


def _import_pyav() -> Any:
    try:
        import av
    except ImportError as error:
        raise GsdError(
            "writing .mp4 needs PyAV", hint="pip install 'gsd-cli[film]', or write a .gif or .webp"
        ) from error
    return av


ENCODERS: dict[str, Callable[[Tensor, float], bytes]] = {
    ".png": _encode_strip,
    ".gif": partial(_encode_with_pillow, format_="gif"),
    ".webp": partial(_encode_with_pillow, format_="webp"),
    ".mp4": _encode_mp4,
}
"""How frames (and frames per second) become the bytes of a file, by its suffix."""
