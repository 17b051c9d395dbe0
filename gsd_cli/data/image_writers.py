"""Writing a stream of (seed, image): pictures, a grid, or an archive; to a path or a byte stream."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gsd_cli.base.atomic import atomic_file, atomic_files
from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.data.pixels import tile, to_uint8
from gsd_cli.data.write_behind import map_beside

Images = Iterator[tuple[int, Tensor]]
Writer = Callable[[Images], list[str]]


IMAGE_FORMATS: dict[str, dict[str, Any]] = {
    "png": {"format": "png"},
    "jpg": {"format": "jpeg", "quality": 95, "subsampling": 0},
    "webp": {"format": "webp", "lossless": True},
}
"""How one image is written, by its extension: the arguments of Pillow's save."""
LONGEST = {"jpg": 65_500, "webp": 16_383}
"""Pixels a side that a format can hold."""


def open_writer(format_: str, target: Path | IO[bytes], kind: str = "png") -> Writer:
    """A function that consumes the images and returns the paths written.

    format_: `folder` (one file an image, of this `kind`), `png`, `jpg` or `webp` (one image, tiled when there are
    several), `npz`, `zip`, `tar`. Files appear under their name when whole; a byte stream gets bytes as they come.
    """
    if format_ == "folder":
        if not isinstance(target, Path):
            raise TypeError("a folder needs a path")
        return lambda images: _write_folder(images, target, kind)
    archives = {"npz": _write_npz, "zip": _write_zip, "tar": _write_tar}
    into = archives[format_] if format_ in archives else partial(_write_picture, kind=format_)

    def write(images: Images) -> list[str]:
        if not isinstance(target, Path):
            into(images, target)
            return []
        with atomic_file(target) as temporary, temporary.open("wb") as file:
            into(images, file)
        return [str(target)]

    return write


def encode(pixels: np.ndarray, kind: str = "png") -> bytes:
    """uint8 [H, W, C] as the bytes of a file of this kind. Raises GsdError (exit 2) where it is too large for it."""
    longest = max(pixels.shape[:2])
    if longest > LONGEST.get(kind, longest):
        raise GsdError(
            f"a .{kind} image has {LONGEST[kind]:,} pixels a side at most, not {longest:,}",
            hint="write a .png, or fewer images",
            code=ExitCode.USAGE,
        )
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, **IMAGE_FORMATS[kind])
    return buffer.getvalue()


def file_name(seed: int, kind: str = "png") -> str:
    """The file of one seed."""
    return f"seed-{seed:08d}.{kind}"


def _encoded(images: Images) -> Iterator[tuple[int, bytes]]:
    return map_beside(lambda pair: (pair[0], encode(pair[1])), _pixels(images))


def _pixels(images: Images) -> Iterator[tuple[int, np.ndarray]]:
    return ((seed, to_uint8(image).permute(1, 2, 0).numpy()) for seed, image in images)


def _write_folder(images: Images, folder: Path, kind: str) -> list[str]:
    with atomic_files(folder) as write:

        def keep(pair: tuple[int, np.ndarray]) -> str:
            return str(write(file_name(pair[0], kind), encode(pair[1], kind)))

        return list(map_beside(keep, _pixels(images)))


def _write_picture(images: Images, file: IO[bytes], kind: str) -> None:
    file.write(encode(to_uint8(tile(torch.stack([image for _, image in images]))).permute(1, 2, 0).numpy(), kind))


def _write_npz(images: Images, file: IO[bytes]) -> None:
    pairs = list(images)
    stack = to_uint8(torch.stack([image for _, image in pairs])).permute(0, 2, 3, 1).numpy()
    np.savez(_seekable(file), images=stack, seeds=np.array([seed for seed, _ in pairs]))


def _write_zip(images: Images, file: IO[bytes]) -> None:
    with zipfile.ZipFile(_seekable(file), "w", zipfile.ZIP_STORED) as archive:
        for seed, payload in _encoded(images):
            archive.writestr(zipfile.ZipInfo(file_name(seed), (1980, 1, 1, 0, 0, 0)), payload)


def _write_tar(images: Images, file: IO[bytes]) -> None:
    with tarfile.open(fileobj=file, mode="w|") as archive:
        for seed, payload in _encoded(images):
            info = tarfile.TarInfo(file_name(seed))
            info.size, info.mode = len(payload), 0o644
            archive.addfile(info, io.BytesIO(payload))


class _Forward(io.RawIOBase):
    """A stream zipfile takes for unseekable, whatever lies beneath: it then writes strictly forward."""

    def __init__(self, file: IO[bytes]):
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        return self._file.write(data)  # type: ignore[call-overload, no-any-return]


def _seekable(file: IO[bytes]) -> IO[bytes]:
    return file if file.seekable() else _Forward(file)  # type: ignore[return-value]
