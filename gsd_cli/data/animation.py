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
from gsd_cli.catalogue.file_formats import IMAGE_FORMATS
from gsd_cli.data.image_writers import encode_image
from gsd_cli.data.pixels import enlarge, tile, to_pil, to_pixels, to_uint8

SMALLEST_SIDE = 128
"""Animations of smaller frames are enlarged to this many pixels, without smoothing."""
LATENTS = "latents.npz"


def require_animation_format(format_: str) -> None:
    """Raise GsdError where a format cannot be written: exit 2 for an unknown one, exit 3 for mp4 without PyAV."""
    if format_ not in ENCODERS:
        known = ", ".join(f".{name}" for name in ENCODERS)
        raise GsdError(f"cannot write .{format_} files", hint=f"{known}, or a folder", code=ExitCode.USAGE)
    if format_ == "mp4":
        _import_pyav()


def write_animation(
    frames: Tensor, target: Path, format_: str, fps: float, latents: Tensor | None = None, scale: int | None = None,
    kind: str = "png",
) -> list[Path]:  # fmt: skip
    """Write frames [N, C, H, W] in [-1, 1]: one file of a format, or a `folder` of numbered images of this kind.

    latents [N, ...] go into the folder as latents.npz, under the name z; scale does not change them. Frames that a
    longer animation left there are removed. Returns the paths written.
    """
    if format_ != "folder":
        payload = encode_animation(frames, format_, fps, scale)
        with atomic_file(target) as temporary:
            temporary.write_bytes(payload)
        return [target]
    written = []
    for i, frame in enumerate(frames):
        path = target / f"frame-{i:05d}.{kind}"
        with atomic_file(path) as temporary:
            temporary.write_bytes(encode_image(to_pixels(enlarge(frame, scale or 1)), kind))
        written.append(path)
    for path in target.glob("frame-[0-9][0-9][0-9][0-9][0-9].*"):
        if path.suffixes == [path.suffix] and path.suffix[1:] in IMAGE_FORMATS and path not in written:
            path.unlink()
    if latents is not None:
        with atomic_file(target / LATENTS) as temporary:
            np.savez(temporary, z=latents.numpy())
        written.append(target / LATENTS)
    return written


def encode_animation(frames: Tensor, format_: str, fps: float, scale: int | None = None) -> bytes:
    """Encode frames [N, C, H, W] in [-1, 1], enlarged `scale` times without smoothing.

    Without a scale, still images keep their size, and animations get sides of at least SMALLEST_SIDE. Raises what
    `require_animation_format` does.
    """
    require_animation_format(format_)
    return ENCODERS[format_](frames, fps, scale)


# -- one function per format --------------------------------------------------------------------


def _encode_strip(frames: Tensor, fps: float, scale: int | None, kind: str) -> bytes:
    """All frames side by side, in one image."""
    return encode_image(to_pixels(enlarge(tile(frames, len(frames)), scale or 1)), kind)


def _encode_with_pillow(frames: Tensor, fps: float, scale: int | None, format_: str) -> bytes:
    buffer = io.BytesIO()
    first, *others = [to_pil(frame) for frame in enlarge(frames, scale or _scale_of_animation(frames))]
    milliseconds = max(1, round(1000 / fps))
    first.save(buffer, format_, save_all=True, append_images=others, duration=milliseconds, loop=0, lossless=True)
    return buffer.getvalue()


def _encode_mp4(frames: Tensor, fps: float, scale: int | None) -> bytes:
    """H.264 where the library has an encoder for it, else MPEG-4."""
    av = _import_pyav()
    shown = frames[:, :3] if frames.shape[1] >= 3 else frames[:, :1]
    pixels = to_uint8(enlarge(shown, scale or _scale_of_animation(frames)))
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


def _scale_of_animation(frames: Tensor) -> int:
    return max(1, -(-SMALLEST_SIDE // min(frames.shape[2:])))


def _import_pyav() -> Any:
    try:
        import av
    except ImportError as error:
        raise GsdError(
            "writing .mp4 needs PyAV", hint="pip install 'gsd-cli[film]', or write a .gif or .webp"
        ) from error
    return av


ENCODERS: dict[str, Callable[[Tensor, float, int | None], bytes]] = {
    "png": partial(_encode_strip, kind="png"),
    "jpg": partial(_encode_strip, kind="jpg"),
    "gif": partial(_encode_with_pillow, format_="gif"),
    "webp": partial(_encode_with_pillow, format_="webp"),
    "mp4": _encode_mp4,
}
"""How frames, frames per second and a scale become the bytes of a file, by format."""
