"""The files of a prepared data set, in a zip, a folder or shards: encoded images by index."""

from __future__ import annotations

import json
import os
import tarfile
import threading
import zipfile
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar

import numpy as np

from gsd_cli.base.errors import GsdError
from gsd_cli.catalogue.run_layout import CARD, DATASET_INDEX
from gsd_cli.data.label_names import normalise_path
from gsd_cli.data.labels import Value
from gsd_cli.data.members import SUFFIXES, is_member
from gsd_cli.data.sources.admission import refusal

T = TypeVar("T")


@dataclass(frozen=True)
class Store:
    """A data set: `read(i)` returns image i as stored, from any thread; `labels()` and `captions()` one value per image
    or None.

    record: what `gsd prepare` noted.
    """

    count: int
    read: Callable[[int], bytes]
    labels: Callable[[], Sequence[Value] | None]
    captions: Callable[[], Sequence[str] | None]
    record: dict[str, Any] = field(default_factory=dict)


def open_store(path: Path) -> Store:
    """A zip, a folder of images (EDM's layout unpacked, or any), or the index of shards (.json)."""
    if path.is_dir():
        return _folder(path)
    return _shards(path) if path.suffix == ".json" else _zip(path)


def _zip(path: Path) -> Store:
    archive = zipfile.ZipFile(path)
    lock = threading.Lock()
    present = set(archive.namelist())
    names = sorted(name for name in present if is_member(name))

    def whole(name: str) -> bytes:
        info = archive.getinfo(name)
        if (cause := refusal(name, info.file_size, info.compress_size)) is not None:
            raise ValueError(f"{name}: {cause}")
        return archive.read(info)

    def read(index: int) -> bytes:
        with lock:  # ZipFile seeks: one reader at a time
            return whole(names[index])

    def member(name: str) -> Any:
        return json.loads(whole(name)) if name in present else {}

    index = member(DATASET_INDEX)
    return Store(
        len(names), read, lambda: _edm(index, names), lambda: _edm(index, names, "captions"), member(CARD)
    )  # fmt: skip


def _folder(path: Path) -> Store:
    inside = (Path(root, file).relative_to(path).as_posix() for root, _, files in os.walk(path) for file in files)
    names = sorted(name for name in inside if is_member(name))

    def member(name: str) -> Any:
        return json.loads((path / name).read_bytes()) if (path / name).is_file() else {}

    index = member(DATASET_INDEX)
    return Store(
        len(names), lambda i: (path / names[i]).read_bytes(), lambda: _edm(index, names),
        lambda: _edm(index, names, "captions"), member(CARD),
    )  # fmt: skip


def _edm(index: Any, names: list[str], key: str = "labels") -> list[Any] | None:
    """The values under a key of dataset.json, one per image; None without any."""
    listed = index.get(key) if isinstance(index, dict) else None
    if not listed:
        return None
    by_name = {normalise_path(name): value for name, value in dict(listed).items()}  # Windows writes backslashes
    paths = [normalise_path(name) for name in names]
    if set(by_name) != set(paths):
        raise ValueError("dataset.json does not name its images")
    return [by_name[path] for path in paths]


# -- shards -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Shard:
    """One tar: the offsets and the sizes of its images [n], in bytes, its labels and its captions."""

    file: BinaryIO
    offsets: np.ndarray
    sizes: np.ndarray
    labels: list[Value]
    captions: list[str]


def _shards(index: Path) -> Store:
    content = json.loads(index.read_bytes())
    listed = content["shardlist"]
    paths = [index.parent / PurePosixPath(entry["url"]).name for entry in listed]
    for path, entry in zip(paths, listed, strict=True):
        if path.stat().st_size != entry["filesize"]:
            raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes, not {entry['filesize']:,}")
    ends = list(accumulate(entry["nsamples"] for entry in listed))
    lock = threading.Lock()

    @cache
    def scanned(number: int) -> _Shard:
        return _scan(paths[number], listed[number]["nsamples"])

    def shard(number: int) -> _Shard:
        with lock:  # a shard is scanned once, when it is first read
            return scanned(number)

    def read(i: int) -> bytes:
        number = bisect_right(ends, i)
        found, place = shard(number), i - (ends[number - 1] if number else 0)
        return os.pread(found.file.fileno(), int(found.sizes[place]), int(found.offsets[place]))

    def labels() -> list[Value] | None:
        return whole([value for number in range(len(paths)) for value in shard(number).labels])

    def captions() -> list[str] | None:
        return whole([text for number in range(len(paths)) for text in shard(number).captions])

    def whole(values: list[T]) -> list[T] | None:
        return values if values and len(values) == ends[-1] else None

    return Store(ends[-1] if ends else 0, read, labels, captions, content.get("gsd", {}))


def _scan(path: Path, count: int) -> _Shard:
    offsets, sizes, labels, captions = [], [], list[Value](), list[str]()
    with tarfile.open(path, "r:") as archive:
        while (member := archive.next()) is not None:
            suffix = PurePosixPath(member.name).suffix.lower()
            if suffix in SUFFIXES:
                offsets.append(member.offset_data)
                sizes.append(member.size)
            elif suffix in (".cls", ".json") and (stream := archive.extractfile(member)) is not None:
                value = json.loads(stream.read())
                labels.append(tuple(value) if isinstance(value, list) else value)
            elif suffix == ".txt" and (stream := archive.extractfile(member)) is not None:
                captions.append(stream.read().decode())
            archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
    if len(offsets) != count:
        raise GsdError(f"{path} holds {len(offsets)} images, its index says {count}")
    return _Shard(path.open("rb"), np.array(offsets, np.int64), np.array(sizes, np.int64), labels, captions)
