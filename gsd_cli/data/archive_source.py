"""Pictures in a zip or a tar. Nothing is extracted to disk."""

from __future__ import annotations

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from gsd_cli.data.decode import Payload
from gsd_cli.data.listing import Listing, refusal
from gsd_cli.data.source import Source, identity
from gsd_cli.errors import GsdError

# RuntimeError: encrypted; NotImplementedError, which is one: unknown compression
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, ValueError, zlib.error, RuntimeError)
"""What zipfile and tarfile raise at archives that are damaged or beyond them."""


def open_zip(path: Path) -> Source:
    """Pictures of a zip, sorted by name. Raises GsdError (exit 3): damaged, or without pictures."""
    listing = Listing(path)
    with _readable(path), zipfile.ZipFile(path) as archive:
        # is_dir() does not take a member without a name
        files = [info for info in archive.infolist() if not info.filename.endswith("/")]
        members = [info for info in files if listing.wanted(info.filename)]
        kinds = [("a link" if stat.S_ISLNK(i.external_attr >> 16) else None) for i in members]
        kept = sorted(
            listing.admit(
                (i.filename, i.file_size, i.compress_size, kind) for i, kind in zip(members, kinds, strict=True)
            )
        )
        crcs = {i.filename: i.CRC for i in members}
        labels = listing.labels(kept, _index(archive, listing))
    listing.require(kept)

    def payloads(start: int) -> Iterator[Payload]:
        with zipfile.ZipFile(path) as archive:
            for name in kept[start:]:
                yield _member(partial(archive.read, name))

    return Source(
        path.stem,
        kept,
        payloads,
        identity((name, crcs[name]) for name in kept),
        labels,
        refused=tuple(listing.refused),
        notes=listing.notes(),
    )


def _index(archive: zipfile.ZipFile, listing: Listing) -> bytes | None:
    if "dataset.json" not in archive.namelist():
        return None
    info = archive.getinfo("dataset.json")
    if (cause := refusal(info.filename, info.file_size, info.compress_size)) is not None:
        listing.index.append(f"it {cause}")
        return None
    return archive.read(info)


def open_tar(path: Path) -> Source:
    """Pictures in the order of the archive: a compressed tar can only be read forwards.

    Raises GsdError (exit 3): damaged, or without pictures.
    """
    listing = Listing(path)
    with _readable(path), tarfile.open(path) as archive:
        members = [
            (m.name, m.size, m.size, None if m.isfile() else "a link" if m.issym() or m.islnk() else "not a file")
            for m in _members(archive)
            if not m.isdir() and listing.wanted(m.name)
        ]
    kept = list(listing.admit(members))
    listing.require(kept)

    def payloads(start: int) -> Iterator[Payload]:
        ahead = iter(kept)
        wanted, position = next(ahead, None), 0
        with tarfile.open(path) as archive:
            for member in _members(archive):
                if wanted is None:
                    return
                # a duplicate, a link or a folder may share the name; the first file of it is the one that was admitted
                if member.name == wanted and member.isfile():
                    if position >= start:
                        yield _member(partial(_extract, archive, member))
                    wanted, position = next(ahead, None), position + 1

    facts = path.stat()
    return Source(
        path.name.split(".")[0],
        kept,
        payloads,
        identity((members, facts.st_size, facts.st_mtime_ns)),
        listing.labels(kept),
        refused=tuple(listing.refused),
        notes=listing.notes(),
    )


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := archive.next()) is not None:
        yield member
        # tarfile keeps every header it has seen; a million of them is a gigabyte
        archive.members = []  # type: ignore[attr-defined]


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    payload = stream.read() if stream else b""
    if len(payload) != member.size:
        raise ValueError("the archive ends before the picture does")
    return payload


def _member(read: Callable[[], bytes]) -> Payload:
    try:
        return read()
    except DAMAGED as error:
        return ValueError(str(error))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGED as error:
        raise GsdError(f"cannot read {path}: {error}", hint="the archive is damaged; fetch it again") from error
