"""Writing a stream of (seed, image): to single files, one tiled image or an archive; to a path or a byte stream.

WRITERS has one function per format. While the next image is computed, threads encode and write the ones before it.
"""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gsd_cli.base.atomic import atomic_file, atomic_files
from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.data.pixels import enlarge, tile, to_pixels, to_shown, to_uint8

T = TypeVar("T")
R = TypeVar("R")
Images = Iterator[tuple[int, Tensor]]

PILLOW_OPTIONS: dict[str, dict[str, Any]] = {
    "png": {"format": "png"},
    "jpg": {"format": "jpeg", "quality": 95, "subsampling": 0},
    "webp": {"format": "webp", "lossless": True},
}
"""The arguments of Pillow's save for each format of one image."""
LARGEST_SIDE = {"jpg": 65_500, "webp": 16_383}
"""The most pixels per side that a format can hold."""
THREADS = 4
"""Encoders and discs spend more time waiting than computing."""
MOST_WAITING = 256
"""The most items in flight: one or two batches, so that a whole batch can be handed over."""


def open_writer(
    format_: str, target: Path | IO[bytes], kind: str = "png", scale: int = 1
) -> Callable[[Images], list[str]]:
    """A function that writes a stream of images [C, H, W] in [-1, 1] to `target` and returns the paths it wrote.

    format_: `folder` (one file per image, in the format `kind`) or a key of WRITERS. scale: how many times
    every image is enlarged, without smoothing. A file appears under its name once it is whole; a byte stream receives
    bytes as they are ready.
    """
    if format_ == "folder":
        if not isinstance(target, Path):
            raise TypeError("a folder needs a path")
        return lambda images: _write_folder(_enlarged(images, scale), target, kind)
    write = WRITERS[format_]

    def write_all(images: Images) -> list[str]:
        images = _enlarged(images, scale)
        if not isinstance(target, Path):
            write(images, target)
            return []
        with atomic_file(target) as temporary, temporary.open("wb") as file:
            write(images, file)
        return [str(target)]

    return write_all


def encode_image(pixels: np.ndarray, kind: str = "png") -> bytes:
    """Encode uint8 pixels [H, W, C] as a file of this kind, as they are shown: in grey or three channels.

    Raises GsdError (exit 2) where the image is too large for the format.
    """
    longest = max(pixels.shape[:2])
    if longest > LARGEST_SIDE.get(kind, longest):
        raise GsdError(
            f"a .{kind} image has {LARGEST_SIDE[kind]:,} pixels a side at most, not {longest:,}",
            hint="write a .png, or fewer images",
            code=ExitCode.USAGE,
        )
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(to_shown(pixels))).save(buffer, **PILLOW_OPTIONS[kind])
    return buffer.getvalue()


def seed_file_name(seed: int, kind: str = "png") -> str:
    """The name of the file of one seed's image."""
    return f"seed-{seed:08d}.{kind}"


def map_in_threads(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yield work(item) in the order of the items; threads do the work while more items are taken.

    An error of `work` is raised where its result would come; work that has not begun by then is dropped.
    """
    with ThreadPoolExecutor(THREADS, "gsd-write") as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                while waiting and (waiting[0].done() or len(waiting) > MOST_WAITING):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


# -- one function per format --------------------------------------------------------------------


def _enlarged(images: Images, scale: int) -> Images:
    return images if scale == 1 else ((seed, enlarge(image, scale)) for seed, image in images)


def _pixels(images: Images) -> Iterator[tuple[int, np.ndarray]]:
    return ((seed, to_pixels(image)) for seed, image in images)


def _encoded(images: Images) -> Iterator[tuple[int, bytes]]:
    return map_in_threads(lambda pair: (pair[0], encode_image(pair[1])), _pixels(images))


def _write_folder(images: Images, folder: Path, kind: str) -> list[str]:
    with atomic_files(folder) as write:

        def write_one(pair: tuple[int, np.ndarray]) -> str:
            return str(write(seed_file_name(pair[0], kind), encode_image(pair[1], kind)))

        return list(map_in_threads(write_one, _pixels(images)))


def _write_image(images: Images, file: IO[bytes], kind: str) -> None:
    tiled = tile(torch.stack([image for _, image in images]))
    file.write(encode_image(to_pixels(tiled), kind))


def _write_npz(images: Images, file: IO[bytes]) -> None:
    pairs = list(images)
    stack = to_uint8(torch.stack([image for _, image in pairs])).permute(0, 2, 3, 1).numpy()
    np.savez(_forward_only(file), images=stack, seeds=np.array([seed for seed, _ in pairs]))


def _write_zip(images: Images, file: IO[bytes]) -> None:
    with zipfile.ZipFile(_forward_only(file), "w", zipfile.ZIP_STORED) as archive:
        for seed, payload in _encoded(images):
            archive.writestr(zipfile.ZipInfo(seed_file_name(seed), (1980, 1, 1, 0, 0, 0)), payload)


def _write_tar(images: Images, file: IO[bytes]) -> None:
    with tarfile.open(fileobj=file, mode="w|") as archive:
        for seed, payload in _encoded(images):
            info = tarfile.TarInfo(seed_file_name(seed))
            info.size, info.mode = len(payload), 0o644
            archive.addfile(info, io.BytesIO(payload))


class _ForwardStream(io.RawIOBase):
    """A stream that zipfile takes for unseekable, whatever is below it, and so writes strictly forward."""

    def __init__(self, file: IO[bytes]):
        self._file = file

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        return self._file.write(data)  # type: ignore[call-overload, no-any-return]


def _forward_only(file: IO[bytes]) -> IO[bytes]:
    return file if file.seekable() else _ForwardStream(file)  # type: ignore[return-value]


WRITERS: dict[str, Callable[[Images, IO[bytes]], None]] = {
    **{kind: partial(_write_image, kind=kind) for kind in PILLOW_OPTIONS},
    "npz": _write_npz,
    "zip": _write_zip,
    "tar": _write_tar,
}
"""How each format is written into a byte stream: one image (tiled when there are several), or an archive."""
