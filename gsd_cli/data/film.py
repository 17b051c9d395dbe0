"""A sequence of frames as a strip, an animation or a folder."""

from __future__ import annotations

import io
from pathlib import Path

from torch import Tensor

from gsd_cli.data.pictures import tile, to_pil
from gsd_cli.errors import ExitCode, GsdError
from gsd_cli.paths import atomic_file

FORMATS = (".png", ".gif", ".webp")
SMALLEST_SIDE = 128
"""Animations of tiny frames are enlarged to this, without smoothing."""


def write_film(frames: Tensor, target: Path, fps: float) -> list[Path]:
    """Write frames [N, C, H, W]: one file by its extension, else a folder of numbered pictures."""
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
    return written


def film_bytes(frames: Tensor, suffix: str, fps: float) -> bytes:
    """Frames as a strip (.png: all side by side) or an animation (.gif, .webp). Exit 2 for others."""
    if suffix not in FORMATS:
        raise GsdError(f"cannot write {suffix} files", hint=f"{', '.join(FORMATS)}, or a folder", code=ExitCode.USAGE)
    buffer = io.BytesIO()
    if suffix == ".png":
        to_pil(tile(frames, len(frames))).save(buffer, "png")
        return buffer.getvalue()
    scale = max(1, -(-SMALLEST_SIDE // frames.shape[-1]))
    pictures = [to_pil(frame.repeat_interleave(scale, 1).repeat_interleave(scale, 2)) for frame in frames]
    milliseconds = max(1, round(1000 / fps))
    pictures[0].save(
        buffer, suffix[1:], save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0, lossless=True
    )
    return buffer.getvalue()
