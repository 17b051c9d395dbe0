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
from PIL import Image
from torch import Tensor

from gsd_cli.data.ahead import map_beside
from gsd_cli.data.pictures import tile, to_uint8
from gsd_cli.writing import atomic_file, atomic_files

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


def encode(pixels: np.ndarray) -> bytes:
    """uint8 [H, W, C] as a PNG file's bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "png")
    return buffer.getvalue()


def file_name(seed: int) -> str:
    """The file of one seed."""
    return f"seed-{seed:08d}.png"


def _encoded(images: Images) -> Iterator[tuple[int, bytes]]:
    return map_beside(lambda pair: (pair[0], encode(pair[1])), _pixels(images))


def _pixels(images: Images) -> Iterator[tuple[int, np.ndarray]]:
    return ((seed, to_uint8(image).permute(1, 2, 0).numpy()) for seed, image in images)


def _write_folder(images: Images, folder: Path) -> list[str]:
    with atomic_files(folder) as write:
        return [
            str(path) for path in map_beside(lambda pair: write(file_name(pair[0]), encode(pair[1])), _pixels(images))
        ]


def _write_picture(images: Images, file: IO[bytes]) -> None:
    file.write(encode(to_uint8(tile(torch.stack([image for _, image in images]))).permute(1, 2, 0).numpy()))


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
