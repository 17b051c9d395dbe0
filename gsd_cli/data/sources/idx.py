"""IDX files (LeCun's format, gzipped): MNIST and its like, among them Fashion-MNIST by name."""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gsd_cli.base.download import network_timeout
from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.data.decode import Payload
from gsd_cli.data.labels import Labels
from gsd_cli.data.sources.source import Source, identity, require_split

DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot",
)  # fmt: skip
STEMS = {"train": "train", "test": "t10k"}
"""How the names of a split's files begin."""


def is_idx_folder(path: Path, split: str) -> bool:
    """Whether a folder holds IDX files of images."""
    return path.is_dir() and _images_file(path, STEMS.get(split, "train")).is_file()


def open_idx(folder: Path, split: str, name: str, licence: str | None = None, classes: tuple[str, ...] = ()) -> Source:
    """The images and class numbers of a split. Raises GsdError: exit 2 (split), 3 (a file is damaged)."""
    require_split(name, split, tuple(STEMS))
    images = _read_idx(_images_file(folder, STEMS[split]))
    numbers = _read_idx(_labels_file(folder, STEMS[split]))
    if images.ndim != 3 or numbers.shape != images.shape[:1]:
        raise GsdError(f"{folder}: {images.shape} images and {numbers.shape} labels", hint="fetch the files again")

    def payloads(places: Sequence[int]) -> Iterator[Payload]:
        return (images[place] for place in places)

    names = [f"{split}/{i}" for i in range(len(images))]
    digest = identity((hashlib.sha256(images.data).hexdigest(),))
    return Source(f"{name} ({split})", names, payloads, digest, Labels(numbers.tolist(), classes), licence)


def open_fashion_mnist(split: str, cache: Path, *, offline: bool) -> Source:
    """Fashion-MNIST from Debian's package, from the cache or downloaded into it. Raises GsdError, also exit 4."""
    return open_idx(_fashion_folder(cache, offline), split, "fashion-mnist", licence="MIT", classes=FASHION_CLASSES)


def _fashion_folder(cache: Path, offline: bool) -> Path:
    downloaded = cache / "datasets" / "FashionMNIST" / "raw"
    for folder in (DEBIAN_FASHION, downloaded):
        if _images_file(folder, "train").exists() and _labels_file(folder, "t10k").exists():
            return folder
    hint = "on Debian: apt install dataset-fashion-mnist; or give the path of a folder with the four idx files"
    if offline:
        raise GsdError("fashion-mnist is not on this machine (--offline)", hint=hint, code=ExitCode.NETWORK)
    from torchvision.datasets import FashionMNIST

    try:
        with network_timeout():
            FashionMNIST(cache / "datasets", download=True)
    except (OSError, RuntimeError) as error:
        raise GsdError(f"cannot download fashion-mnist: {error}", hint=hint, code=ExitCode.NETWORK) from error
    return downloaded


def _images_file(folder: Path, stem: str) -> Path:
    return folder / f"{stem}-images-idx3-ubyte.gz"


def _labels_file(folder: Path, stem: str) -> Path:
    return folder / f"{stem}-labels-idx1-ubyte.gz"


def _read_idx(path: Path) -> np.ndarray:
    """A gzipped IDX file of unsigned bytes: uint8, in the shape that it declares."""
    try:
        payload = gzip.decompress(path.read_bytes())
        if payload[2] != 8:
            raise ValueError("not unsigned bytes")
        dimensions = payload[3]
        shape = np.frombuffer(payload, ">i4", dimensions, 4)
        return np.frombuffer(payload, np.uint8, -1, 4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, IndexError, ValueError, struct.error, zlib.error) as error:
        raise GsdError(f"cannot read {path}: {error}", hint="the file is damaged; fetch it again") from error
