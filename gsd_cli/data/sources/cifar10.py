"""CIFAR-10's own files: pickled batches, read without letting a pickle run anything."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gsd_cli.base.errors import GsdError

FOLDER = "cifar-10-batches-py"
TARBALL = "cifar-10-python.tar.gz"
URL = f"https://www.cs.toronto.edu/~kriz/{TARBALL}"
SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
_MAX_BATCH = 64 * 2**20


def batch_reader(path: Path) -> Callable[[str], bytes] | None:
    """A function from a batch's name to its bytes, when `path` is CIFAR-10's folder, its parent or its tarball."""
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
    # a damaged pickle raises nearly anything, a hostile one what _ArraysOnly says
    except Exception as error:
        raise GsdError(
            f"CIFAR-10's {name} cannot be read: {error}",
            hint="the file is damaged or not what it claims; fetch it again",
        ) from error
    return images, labels


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that knows NumPy's array and dtype by name only: what it builds are inert records of both."""

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
    """What NumPy 1 pickles of an array: (version, shape, dtype, Fortran order, bytes)."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def bytes(self) -> bytes:
        _, _, dtype, fortran, payload = self.state
        if not isinstance(dtype, _Dtype) or dtype.kind != b"u1" or fortran or not isinstance(payload, bytes):
            raise ValueError("not an array of bytes in C order")
        return payload


def _reconstruct(*arguments: Any) -> _Array:
    return _Array()
