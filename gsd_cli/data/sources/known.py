"""Data sets known by name: what is fetched (with its hash), and what people must bring themselves."""

from __future__ import annotations

import gzip
import hashlib
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gsd_cli.base.download import fetch_file, file_sha256, network_timeout
from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.data.decode import Payload
from gsd_cli.data.labels import Labels
from gsd_cli.data.sources import cifar10 as cifar
from gsd_cli.data.sources.open import open_path
from gsd_cli.data.sources.source import Source, identity

DEBIAN_FASHION = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle-boot",
)  # fmt: skip
IDX_STEMS = {"train": "train", "test": "t10k"}

BROUGHT = {
    "celeba-hq": "the authors of CelebAMask-HQ and of Progressive GAN offer it for non-commercial research",
    "lsun-bedroom": "github.com/fyu/lsun fetches bedroom_train_lmdb",
    "lsun-church": "github.com/fyu/lsun fetches church_outdoor_train_lmdb",
}
LSUN = {"lsun-bedroom": "bedroom", "lsun-church": "church_outdoor"}
NAMES = ("cifar10", "fashion-mnist", *BROUGHT)


def open_source(source: str, split: str, cache: Path, *, offline: bool) -> Source:
    """A known name, hf:OWNER/NAME, or a path. Raises GsdError: exit 2 (split), 3 (nothing there), 4 (network)."""
    if source == "fashion-mnist":
        return _idx(_fashion_folder(cache, offline), split, source, licence="MIT", classes=FASHION_CLASSES)
    if source == "cifar10":
        return _cifar10(_cifar_files(cache, offline), split)
    if source in BROUGHT:
        return _brought(source, split, cache)
    if source.startswith("hf:"):
        from gsd_cli.data.sources.hub import open_hub

        return open_hub(source.removeprefix("hf:"), split, offline=offline)
    path = Path(source)
    if source and path.exists():
        return open_path(path, split)
    raise GsdError(
        f"no such data set or path: {source}",
        hint=f"known names: {', '.join(NAMES)}; or hf:OWNER/NAME; or give a folder, zip, tar or LMDB of images",
    )


def recognise(path: Path, split: str) -> Source | None:
    """A user's own copy of CIFAR-10 or of idx files (MNIST's format), else None."""
    if cifar.batch_reader(path) is not None:
        return _cifar10(path, split)
    if path.is_dir() and (path / f"{IDX_STEMS.get(split, 'train')}-images-idx3-ubyte.gz").is_file():
        return _idx(path, split, path.resolve().name)
    return None


def _require_split(name: str, split: str, known: tuple[str, ...]) -> None:
    if split not in known:
        raise GsdError(f"{name} has no split {split!r}", hint=" or ".join(known), code=ExitCode.USAGE)


# -- sets that people bring ---------------------------------------------------------------------


def _brought(name: str, split: str, cache: Path) -> Source:
    """A set that may not be fetched, from the cache's datasets folder."""
    _require_split(name, split, ("train", "val") if name in LSUN else ("train",))
    folder = cache / "datasets"
    stems = [f"{LSUN[name]}_{split}_lmdb"] if name in LSUN else [name]
    for place in [folder / name / stems[0], *(folder / f"{s}{end}" for s in stems for end in ("", ".zip", ".tar"))]:
        if place.exists():
            return open_path(place, split)
    raise GsdError(
        f"{name} is not on this machine, and gsd does not fetch it",
        hint=f"{BROUGHT[name]}; put it at {folder / stems[0]}, or give its path: gsd prepare PATH (docs/data.md)",
    )


# -- Fashion-MNIST and its like -----------------------------------------------------------------


def _idx(folder: Path, split: str, name: str, licence: str | None = None, classes: tuple[str, ...] = ()) -> Source:
    _require_split(name, split, tuple(IDX_STEMS))
    images = _read_idx(folder / f"{IDX_STEMS[split]}-images-idx3-ubyte.gz")
    numbers = _read_idx(folder / f"{IDX_STEMS[split]}-labels-idx1-ubyte.gz")
    if images.ndim != 3 or numbers.shape != images.shape[:1]:
        raise GsdError(f"{folder}: {images.shape} images and {numbers.shape} labels", hint="fetch the files again")

    def payloads(start: int) -> Iterator[Payload]:
        yield from images[start:]

    names = [f"{split}/{i}" for i in range(len(images))]
    digest = identity((hashlib.sha256(images.data).hexdigest(),))
    return Source(f"{name} ({split})", names, payloads, digest, Labels(numbers.tolist(), classes), licence)


def _fashion_folder(cache: Path, offline: bool) -> Path:
    downloaded = cache / "datasets" / "FashionMNIST" / "raw"
    for folder in (DEBIAN_FASHION, downloaded):
        if (folder / "train-images-idx3-ubyte.gz").exists() and (folder / "t10k-labels-idx1-ubyte.gz").exists():
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


def _read_idx(path: Path) -> np.ndarray:
    """A gzipped IDX file of unsigned bytes (LeCun's format): uint8, the shape it declares."""
    try:
        payload = gzip.decompress(path.read_bytes())
        if payload[2] != 8:
            raise ValueError("not unsigned bytes")
        dimensions = payload[3]
        shape = np.frombuffer(payload, ">i4", dimensions, 4)
        return np.frombuffer(payload, np.uint8, -1, 4 + 4 * dimensions).reshape(shape)
    except (OSError, EOFError, IndexError, ValueError, struct.error, zlib.error) as error:
        raise GsdError(f"cannot read {path}: {error}", hint="the file is damaged; fetch it again") from error


# -- CIFAR-10 -----------------------------------------------------------------------------------


def _cifar10(path: Path, split: str) -> Source:
    _require_split("cifar10", split, tuple(cifar.BATCHES))
    reader = cifar.batch_reader(path)
    assert reader is not None

    def batches() -> Iterator[tuple[np.ndarray, list[int]]]:
        for name in cifar.BATCHES[split]:
            try:
                payload = reader(name)
            except (OSError, KeyError, ValueError, EOFError, tarfile.TarError, zlib.error) as error:
                raise GsdError(f"cannot read {name} of {path}: {error}", hint="fetch CIFAR-10 again") from error
            yield cifar.read_batch(name, payload)

    digest, numbers = hashlib.sha256(), []
    for images, labels in batches():
        digest.update(np.ascontiguousarray(images).data)
        numbers += labels

    def payloads(start: int) -> Iterator[Payload]:
        position = 0
        for images, _ in batches():
            yield from images[max(0, start - position) :]
            position += len(images)

    names = [f"{split}/{i}" for i in range(len(numbers))]
    official = path.is_file() and file_sha256(path) == cifar.SHA256
    return Source(
        f"cifar10 ({split})",
        names,
        payloads,
        digest.hexdigest(),
        Labels(numbers, cifar.CLASSES),
        notes=()
        if official or path.is_dir()
        else (f"{path} is not the official tarball of CIFAR-10 (its sha256 differs)",),
        facts={"source_sha256": cifar.SHA256} if official else {},
    )


def _cifar_files(cache: Path, offline: bool) -> Path:
    folder = cache / "datasets"
    tarball, unpacked = folder / cifar.TARBALL, folder / cifar.FOLDER
    if unpacked.is_dir() and not tarball.is_file():
        return unpacked
    hint = f"fetch {cifar.URL} and give its path: gsd prepare {cifar.TARBALL}"
    return fetch_file(tarball, cifar.URL, cifar.SHA256, "cifar10", hint, offline=offline)
