"""Writing a stream of (seed, image): pictures, a grid, or an archive; to a path or a byte stream."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from gsd_cli.data.pictures import tile, to_pil, to_uint8
from gsd_cli.paths import atomic_file

Images = Iterator[tuple[int, Tensor]]
Writer = Callable[[Images], list[str]]


def open_writer(format_: str, target: Path | IO[bytes]) -> Writer:
    """A function that consumes the images and returns the paths written.

    format_: `folder` (one PNG an image), `png` (one picture, tiled when there are several), `npz`,
    `zip`, `tar`. Files appear under their name when whole; a byte stream gets bytes as they come.
    """
    if format_ == "folder":
        if not isinstance(target, Path):
            raise TypeError("a folder needs a path")
        return lambda images: _write_folder(images, target)
    into = {"png": _write_picture, "npz": _write_npz, "zip": _write_zip, "tar": _write_tar}[format_]

    def write(images: Images) -> list[str]:
        if not isinstance(target, Path):
            into(images, target)
            return []
        with atomic_file(target) as temporary, temporary.open("wb") as file:
            into(images, file)
        return [str(target)]

    return write


def png_bytes(image: Tensor) -> bytes:
    """One image [C, H, W] as a PNG file's bytes."""
    buffer = io.BytesIO()
    to_pil(image).save(buffer, "png")
    return buffer.getvalue()


def file_name(seed: int) -> str:
    """The file of one seed."""
    return f"seed-{seed:08d}.png"


def _write_folder(images: Images, folder: Path) -> list[str]:
    written = []
    for seed, image in images:
        path = folder / file_name(seed)
        with atomic_file(path) as temporary:
            temporary.write_bytes(png_bytes(image))
        written.append(str(path))
    return written


def _write_picture(images: Images, file: IO[bytes]) -> None:
    file.write(png_bytes(tile(torch.stack([image for _, image in images]))))


def _write_npz(images: Images, file: IO[bytes]) -> None:
    pairs = list(images)
    stack = to_uint8(torch.stack([image for _, image in pairs])).permute(0, 2, 3, 1).numpy()
    np.savez(_seekable(file), images=stack, seeds=np.array([seed for seed, _ in pairs]))


def _write_zip(images: Images, file: IO[bytes]) -> None:
    with zipfile.ZipFile(_seekable(file), "w", zipfile.ZIP_STORED) as archive:
        for seed, image in images:
            archive.writestr(zipfile.ZipInfo(file_name(seed), (1980, 1, 1, 0, 0, 0)), png_bytes(image))


def _write_tar(images: Images, file: IO[bytes]) -> None:
    with tarfile.open(fileobj=file, mode="w|") as archive:
        for seed, image in images:
            payload = png_bytes(image)
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
