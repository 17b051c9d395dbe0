"""CIFAR-10 from its official files: pickled batches, read without running any code in them."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import zlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gsd_cli.base.download import fetch_file, file_sha256
from gsd_cli.base.errors import GsdError
from gsd_cli.data.decode import Payload
from gsd_cli.data.labels import Labels
from gsd_cli.data.sources.source import Source, require_split

FOLDER = "cifar-10-batches-py"
TARBALL = "cifar-10-python.tar.gz"
URL = f"https://www.cs.toronto.edu/~kriz/{TARBALL}"
SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
_MAX_BATCH = 64 * 2**20


def open_cifar10(split: str, cache: Path, *, offline: bool) -> Source:
    """CIFAR-10 from the cache, or downloaded into it. Raises GsdError: exit 2 (split), 3 (damaged), 4 (network)."""
    folder = cache / "datasets"
    tarball, unpacked = folder / TARBALL, folder / FOLDER
    if tarball.is_file() or not unpacked.is_dir():
        hint = f"fetch {URL} and give its path: gsd prepare {TARBALL}"
        fetch_file(tarball, URL, SHA256, "cifar10", hint, offline=offline)
        return open_cifar10_files(tarball, split)
    return open_cifar10_files(unpacked, split)


def open_cifar10_files(path: Path, split: str) -> Source:
    """The images and classes of a split; path: what `batch_reader` takes. Raises GsdError: exit 2 (split), 3."""
    require_split("cifar10", split, tuple(BATCHES))
    reader = batch_reader(path)
    if reader is None:
        raise GsdError(f"{path} does not hold CIFAR-10", hint=f"give {TARBALL} or its unpacked folder")

    def batches() -> Iterator[tuple[np.ndarray, list[int]]]:
        for name in BATCHES[split]:
            try:
                payload = reader(name)
            except (OSError, KeyError, ValueError, EOFError, tarfile.TarError, zlib.error) as error:
                raise GsdError(f"cannot read {name} of {path}: {error}", hint="fetch CIFAR-10 again") from error
            yield read_batch(name, payload)

    digest, numbers = hashlib.sha256(), []
    for images, labels in batches():
        digest.update(np.ascontiguousarray(images).data)
        numbers += labels

    def payloads(places: Sequence[int]) -> Iterator[Payload]:
        first = 0
        for images, _ in batches():
            inside = places[bisect_left(places, first) : bisect_left(places, first + len(images))]
            yield from (images[place - first] for place in inside)
            first += len(images)

    official = path.is_file() and file_sha256(path) == SHA256
    caution = f"{path} is not the official tarball of CIFAR-10 (its sha256 differs)"
    return Source(
        f"cifar10 ({split})",
        [f"{split}/{i}" for i in range(len(numbers))],
        payloads,
        digest.hexdigest(),
        Labels(numbers, CLASSES),
        warnings=() if official or path.is_dir() else (caution,),
        facts={"source_sha256": SHA256} if official else {},
    )


def batch_reader(path: Path) -> Callable[[str], bytes] | None:
    """A function from a batch's name to its bytes; None where `path` is not its folder, parent or tarball."""
    for folder in (path, path / FOLDER):
        if (folder / "data_batch_1").is_file() or (folder / "test_batch").is_file():
            return lambda name: (folder / name).read_bytes()
    if path.is_file() and path.name.startswith("cifar-10") and tarfile.is_tarfile(path):
        return lambda name: _from_tarball(path, name)
    return None


def _from_tarball(path: Path, name: str) -> bytes:
    with tarfile.open(path) as archive:
        member = archive.getmember(f"{FOLDER}/{name}")
        stream = archive.extractfile(member) if member.isfile() and member.size <= _MAX_BATCH else None
        if stream is None:
            raise ValueError(f"{name} is not a file of the expected size")
        return stream.read()


def read_batch(name: str, payload: bytes) -> tuple[np.ndarray, list[int]]:
    """One pickled batch: images uint8 [N, 32, 32, 3] and N labels 0..9.

    Raises GsdError (exit 3) for anything but plain containers, text, numbers and one array of bytes.
    """
    try:
        content = _ArraysOnly(io.BytesIO(payload), encoding="bytes").load()
        pixels, labels = content[b"data"].bytes(), content[b"labels"]
        images = np.frombuffer(pixels, np.uint8).reshape(len(labels), 3, 32, 32).transpose(0, 2, 3, 1)
        if not all(isinstance(label, int) and 0 <= label < len(CLASSES) for label in labels):
            raise ValueError("a label is not one of 0 to 9")
    # a damaged pickle may raise any error; a hostile one raises _ArraysOnly's
    except Exception as error:
        raise GsdError(
            f"CIFAR-10's {name} cannot be read: {error}",
            hint="the file is damaged or not what it claims; fetch it again",
        ) from error
    return images, labels


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that accepts only the names of NumPy's array and dtype, and builds inert records for them."""

    def find_class(self, module: str, name: str) -> Any:
        stand_in = {"_reconstruct": _reconstruct, "ndarray": "ndarray", "dtype": _Dtype}.get(name)
        if stand_in is None or module not in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray"):
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")
        return stand_in


class _Dtype:
    def __init__(self, *arguments: Any):
        self.kind = arguments[0]

    def __setstate__(self, state: Any) -> None:
        pass


class _Array:
    """The state that NumPy 1 pickles for an array: (version, shape, dtype, Fortran order, bytes)."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def bytes(self) -> bytes:
        _, _, dtype, fortran, payload = self.state
        if not isinstance(dtype, _Dtype) or dtype.kind != b"u1" or fortran or not isinstance(payload, bytes):
            raise ValueError("not an array of bytes in C order")
        return payload


def _reconstruct(*arguments: Any) -> _Array:
    return _Array()
