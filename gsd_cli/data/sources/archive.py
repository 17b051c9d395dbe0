"""Images in a zip or a tar. Nothing is extracted to disk."""

from __future__ import annotations

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from gsd_cli.base.errors import GsdError
from gsd_cli.data.decode import Payload
from gsd_cli.data.label_names import normalise_path
from gsd_cli.data.sources.admission import Listing, refusal
from gsd_cli.data.sources.layout import COMPANIONS, SIDECAR, read_layout
from gsd_cli.data.sources.source import Source, identity

# RuntimeError: encrypted; NotImplementedError, which is one: unknown compression
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, ValueError, zlib.error, RuntimeError)
"""What zipfile and tarfile raise for archives that are damaged or not supported."""


def open_zip(path: Path, split: str = "train") -> Source:
    """The images of a zip, or of one of its splits, sorted by name. Raises GsdError (exit 3): damaged, or no images."""
    listing = Listing(path)
    with _readable(path), zipfile.ZipFile(path) as archive:
        # is_dir() does not take a member without a name
        files = [info for info in archive.infolist() if not info.filename.endswith("/")]
        members = [info for info in files if listing.is_image(info.filename, partial(_head, archive, info))]
        kinds = [("a link" if stat.S_ISLNK(i.external_attr >> 16) else None) for i in members]
        facts = ((i.filename, i.file_size, i.compress_size, kind) for i, kind in zip(members, kinds, strict=True))
        found = listing.select(sorted(listing.admit(facts)))
        crcs = {i.filename: i.CRC for i in members}
        unused: list[str] = []
        layout = read_layout(found, split, path, partial(_companion, archive, set(archive.namelist()), unused))
    listing.require(found)
    kept = layout.names

    def payloads(places: Sequence[int]) -> Iterator[Payload]:
        with zipfile.ZipFile(path) as archive:
            for place in places:
                yield _member(partial(archive.read, kept[place]))

    return Source(
        path.stem,
        kept,
        payloads,
        identity((name, crcs[name]) for name in kept),
        layout.labels,
        refused=tuple(listing.refused),
        warnings=(*listing.warnings(), *layout.warnings, *unused),
        labels_message=layout.labels_message + ("" if layout.labels else listing.hint_at_tables(inside=True)),
        messages=(*listing.messages(), *layout.messages),
    )


def _head(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(info) as file:
            return file.read(16)
    except DAMAGED:
        return b""


def _companion(archive: zipfile.ZipFile, present: set[str], unused: list[str], name: str) -> bytes | None:
    """The content of a file next to the images; None where it is missing, or unsafe (then `unused` says so)."""
    if name not in present:
        return None
    info = archive.getinfo(name)
    if (cause := refusal(info.filename, info.file_size, info.compress_size)) is not None:
        unused.append(f"{archive.filename}: its {name} is not used: it {cause}")
        return None
    return archive.read(info)


def open_tar(path: Path, split: str = "train") -> Source:
    """The images of a tar, or of one of its splits, in the order of the archive: it can only be read forwards.

    Raises GsdError (exit 3): damaged, or no images.
    """
    listing = Listing(path)
    members: list[tuple[str, int, int, str | None]] = []
    companions: dict[str, bytes] = {}
    with _readable(path), tarfile.open(path) as archive:
        for m in _members(archive):
            if m.isdir():
                continue
            if listing.is_image(m.name, partial(_beginning, archive, m)):
                cause = None if m.isfile() else "a link" if m.issym() or m.islnk() else "not a file"
                members.append((m.name, m.size, m.size, cause))
            elif (
                m.isfile()
                and (normalise_path(m.name).rpartition("/")[2] in COMPANIONS or m.name.endswith(SIDECAR))
                and not refusal(m.name, m.size, m.size)
            ):
                companions[normalise_path(m.name)] = _extract(archive, m)
    found = listing.select(list(listing.admit(members)))
    listing.require(found)
    layout = read_layout(found, split, path, companions.get)
    kept = layout.names

    def payloads(places: Sequence[int]) -> Iterator[Payload]:
        ahead = iter(places)
        wanted, position = next(ahead, None), 0
        with tarfile.open(path) as archive:
            for member in _members(archive):
                if wanted is None:
                    return
                # a duplicate, a link or a folder may share the name; the first file with it was admitted
                if member.name == kept[position] and member.isfile():
                    if position == wanted:
                        yield _member(partial(_extract, archive, member))
                        wanted = next(ahead, None)
                    position += 1

    facts = path.stat()
    whole = (members, facts.st_size, facts.st_mtime_ns)
    return Source(
        path.name.split(".")[0],
        kept,
        payloads,
        identity(whole if len(kept) == len(found) else (*whole, split)),
        layout.labels,
        refused=tuple(listing.refused),
        warnings=(*listing.warnings(), *layout.warnings),
        labels_message=layout.labels_message + ("" if layout.labels else listing.hint_at_tables(inside=True)),
        messages=(*listing.messages(), *layout.messages),
        in_order=True,
    )


def _beginning(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member) if member.isfile() else None
    return stream.read(16) if stream else b""


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := archive.next()) is not None:
        yield member
        # tarfile keeps every header it has seen; a million of them is a gigabyte
        archive.members = []  # type: ignore[attr-defined]


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    payload = stream.read() if stream else b""
    if len(payload) != member.size:
        raise ValueError("the archive ends before the image does")
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
