"""Writing a prepared data set from a stream of images, in two forms; the same images give the same bytes.

A zip (EDM, StyleGAN, SiD read it): 00000/img00000000.png ..., dataset.json {"labels": [[name, label], ...]}, gsd.json.
Shards (WebDataset reads them): NAME-000000.tar ... of img00000000.png and img00000000.cls (or .json), and NAME.json.
Captions are in dataset.json as {"captions": [[name, text], ...]}, and in shards as img00000000.txt.
Images of other than 1 or 3 channels are .npy files (EDM2 reads them).
"""

from __future__ import annotations

import itertools
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from gsd_cli.base.atomic import atomic_file, publish
from gsd_cli.base.storage import storage_errors
from gsd_cli.catalogue.run_layout import CARD, DATASET_INDEX
from gsd_cli.data.labels import Value
from gsd_cli.data.members import member_suffix

Entry = tuple[int, bytes, Value | None, str | None]
"""Number of the shard, an image's file (members.py), label, caption."""
_EPOCH = (1980, 1, 1, 0, 0, 0)


class ArchiveWriter:
    """Writes a zip image by image. small_index: compress the list of labels, to save bytes."""

    def __init__(self, path: Path, *, small_index: bool = False):
        self._index = zipfile.ZIP_DEFLATED if small_index else zipfile.ZIP_STORED
        self._zip = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)
        self._labels: list[tuple[str, Value]] = []
        self._captions: list[tuple[str, str]] = []
        self.count = 0

    def add(self, file: bytes, label: Value | None, caption: str | None = None) -> None:
        """Add an image's file, a PNG or .npy, its label and its caption."""
        name = f"{self.count // 1000:05d}/img{self.count:08d}{member_suffix(file)}"
        self._put(name, file)
        if label is not None:
            self._labels.append((name, label))
        if caption is not None:
            self._captions.append((name, caption))
        self.count += 1

    def close(self, record: dict[str, Any]) -> None:
        """Finish the file with the labels and the captions (where every image has one) and the record."""
        index: dict[str, Any] = {"labels": self._labels if len(self._labels) == self.count else None}
        if self._captions and len(self._captions) == self.count:
            index["captions"] = self._captions
        self._put(DATASET_INDEX, json.dumps(index).encode(), self._index)
        self._put(CARD, json.dumps(record, indent=1).encode())
        self._zip.close()

    def abandon(self) -> None:
        """Close a file that cannot be finished; zipfile itself would try to write once more and raise an error."""
        file, self._zip.fp = self._zip.fp, None
        with suppress(OSError):
            if file is not None:
                file.close()

    def _put(self, name: str, payload: bytes, compression: int = zipfile.ZIP_STORED) -> None:
        info = zipfile.ZipInfo(name, _EPOCH)
        info.external_attr = 0o644 << 16
        self._zip.writestr(info, payload, compression, 9)


def write_zip(target: Path, work: Path, entries: Iterator[Entry], record: Callable[[], dict[str, Any]]) -> None:
    """One zip, written in the folder `work` and moved to `target` once it is whole.

    `record` is called once all images are written.
    """
    with storage_errors(target):
        writer = ArchiveWriter(work / target.name)
        try:
            for _, member, label, caption in entries:
                writer.add(member, label, caption)
            writer.close(record())
        except BaseException:
            writer.abandon()
            raise
        publish(work / target.name, target)


def write_shards(index: Path, work: Path, entries: Iterator[Entry], record: Callable[[], dict[str, Any]]) -> None:
    """Tars next to `index` (NAME.json), written in `work` and moved once all are whole; the index comes last.

    The index has the format of webdataset's wids, with gsd's record under `gsd`.
    """
    listed: list[dict[str, Any]] = []
    count = 0
    with storage_errors(index):
        for number, (_, group) in enumerate(itertools.groupby(entries, key=lambda entry: entry[0])):
            name = f"{index.stem}-{number:06d}.tar"
            with (work / name).open("wb") as file:
                before = count
                for _, member, label, caption in group:
                    _put_sample(file, f"img{count:08d}", member, label, caption)
                    count += 1
                file.write(bytes(2 * tarfile.BLOCKSIZE))
            listed.append({"url": name, "nsamples": count - before, "filesize": (work / name).stat().st_size})
        recorded = record()
        for old in _shards_of(index) - {str(entry["url"]) for entry in listed}:
            (index.parent / old).unlink(missing_ok=True)
        for entry in listed:
            publish(work / entry["url"], index.parent / entry["url"])
    content = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": listed, "gsd": recorded}
    with atomic_file(index) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _shards_of(index: Path) -> set[str]:
    return {path.name for path in index.parent.glob(f"{index.stem}-[0-9][0-9][0-9][0-9][0-9][0-9].tar")}


def _put_sample(file: IO[bytes], key: str, member: bytes, label: Value | None, caption: str | None) -> None:
    _put_member(file, f"{key}{member_suffix(member)}", member)
    if isinstance(label, int):
        _put_member(file, f"{key}.cls", str(label).encode())
    elif label is not None:
        _put_member(file, f"{key}.json", json.dumps(label).encode())
    if caption is not None:
        _put_member(file, f"{key}.txt", caption.encode())


def _put_member(file: IO[bytes], name: str, payload: bytes) -> None:
    # tarfile.TarFile keeps every header in memory
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(payload), 0o644
    file.write(info.tobuf(tarfile.USTAR_FORMAT))
    file.write(payload)
    file.write(bytes(-len(payload) % tarfile.BLOCKSIZE))
