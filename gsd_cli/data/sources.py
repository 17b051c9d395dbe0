"""Where images come from: a folder, a zip, a tar or an LMDB, or a name. Nothing is extracted, nothing decoded here."""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from gsd_cli.data.decode import SUFFIXES, Payload
from gsd_cli.data.labels import Labels, edm_labels, folder_labels, read_edm
from gsd_cli.errors import GsdError

MAX_MEMBER_BYTES = 512 * 2**20
MAX_RATIO, RATIO_MATTERS = 200, 64 * 2**20
"""A member that unpacks to more than this many times its size, and to more than this many bytes, is a bomb."""
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")


@dataclass(frozen=True)
class Source:
    """Pictures by name, and how to get at them in that order.

    payloads(start) yields what `decode` takes for names[start:]. `identity` changes when the stored pictures do.
    `refused` are pictures that may not be read, with the cause; `notes` what the user should know;
    `facts` what the data set's record keeps.
    """

    name: str
    names: Sequence[str]
    payloads: Callable[[int], Iterator[Payload]]
    identity: str
    labels: Labels | None = None
    licence: str | None = None
    refused: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


def open_path(path: Path, split: str) -> Source:
    """A folder, zip, tar or LMDB of pictures, CIFAR-10's own files, or idx files. Raises GsdError (exit 3)."""
    from gsd_cli.data import known, lmdb_source

    if lmdb_source.is_lmdb(path):
        return lmdb_source.open_lmdb(path)
    if (found := known.recognise(path, split)) is not None:
        return found
    if path.is_dir():
        return _folder(path)
    if zipfile.is_zipfile(path):
        return _zip(path)
    if tarfile.is_tarfile(path):
        return _tar(path)
    raise GsdError(
        f"{path} is neither a folder, a zip, a tar nor an LMDB", hint="give a folder or an archive of images"
    )


def identity(parts: Iterable[object]) -> str:
    """A digest of what tells one state of a source from another."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


# -- folders ------------------------------------------------------------------------------------


def _folder(root: Path) -> Source:
    listing = _Listing(root)
    names: list[str] = []

    def found() -> Iterator[tuple[str, int, int]]:
        for name, size, changed in _walk(root, "", listing):
            names.append(name)
            yield name, size, changed

    state = identity(found())
    listing.require(names)
    index = root / "dataset.json"
    labels = listing.labels(names, index.read_bytes() if index.is_file() else None)

    def payloads(start: int) -> Iterator[Payload]:
        return (root / name for name in names[start:])

    return Source(
        root.resolve().name,
        names,
        payloads,
        state,
        labels,
        refused=tuple(listing.refused),
        notes=listing.notes(),
    )


def _walk(root: Path, inside: str, listing: _Listing) -> Iterator[tuple[str, int, int]]:
    """(name, bytes, mtime) of the pictures under root/inside, in order. Links to folders may loop: not followed."""
    try:
        entries = sorted(os.scandir(root / inside), key=lambda entry: entry.name)
    except OSError as error:
        listing.refused.append((inside or str(root), f"cannot be listed: {error.strerror}"))
        return
    for entry in entries:
        name = f"{inside}/{entry.name}" if inside else entry.name
        if _hidden((entry.name,)):
            continue
        if os.path.isdir(entry.path):  # unlike entry.is_dir, does not raise for a link to itself
            if entry.is_symlink():
                listing.links.append(name)
            else:
                yield from _walk(root, name, listing)
        elif listing.wanted(name):
            if os.path.isfile(entry.path):
                facts = entry.stat()
                yield name, facts.st_size, facts.st_mtime_ns
            else:
                listing.refused.append((name, "a link to nothing" if entry.is_symlink() else "not a file"))


# -- archives -----------------------------------------------------------------------------------


def _zip(path: Path) -> Source:
    listing = _Listing(path)
    with _readable(path), zipfile.ZipFile(path) as archive:
        members = [info for info in archive.infolist() if not info.is_dir() and listing.wanted(info.filename)]
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


def _index(archive: zipfile.ZipFile, listing: _Listing) -> bytes | None:
    if "dataset.json" not in archive.namelist():
        return None
    info = archive.getinfo("dataset.json")
    if (cause := refusal(info.filename, info.file_size, info.compress_size)) is not None:
        listing.index.append(f"it {cause}")
        return None
    return archive.read(info)


def _tar(path: Path) -> Source:
    """Pictures in the order of the archive: a compressed tar can only be read forwards."""
    listing = _Listing(path)
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
    # RuntimeError: encrypted; NotImplementedError: unknown compression
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, ValueError, zlib.error, RuntimeError) as error:
        return ValueError(str(error))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise GsdError(f"cannot read {path}: {error}", hint="the archive is damaged; fetch it again") from error


# -- what is admitted ---------------------------------------------------------------------------


class _Listing:
    """What was met while listing a source, besides the pictures that are admitted."""

    def __init__(self, root: Path):
        self.root = root
        self.refused: list[tuple[str, str]] = []
        self.links: list[str] = []
        self.archives: list[str] = []
        self.databases: list[str] = []
        self.index: list[str] = []

    def wanted(self, name: str) -> bool:
        """Whether a file is a picture by its name; takes note of what it is otherwise."""
        # tar writes ./a.png: the dot is no folder
        path = PurePosixPath(name)
        if _hidden(path.parts):
            return False
        if name.lower().endswith(ARCHIVES):
            self.archives.append(name)
        if path.suffix.lower() == ".mdb":
            self.databases.append(name)
        return path.suffix.lower() in SUFFIXES

    def admit(self, members: Iterable[tuple[str, int, int, str | None]]) -> Iterator[str]:
        """The names of an archive's members (name, bytes, bytes stored, why not) that may be read."""
        seen: set[str] = set()
        for name, size, stored, cause in members:
            cause = cause or refusal(name, size, stored) or ("a second member of that name" if name in seen else None)
            seen.add(name)
            if cause:
                self.refused.append((name, cause))
            else:
                yield name

    def require(self, names: Sequence[str]) -> None:
        """Raise GsdError when there is no picture at all, good or refused."""
        if names or self.refused:
            return
        hint = f"looked for {', '.join(sorted(SUFFIXES))}"
        if self.archives or self.databases:
            hint = f"it holds {(self.archives + self.databases)[0]}: unpack that first"
        raise GsdError(f"no images in {self.root}", hint=hint)

    def labels(self, names: Sequence[str], index: bytes | None = None) -> Labels | None:
        """What a dataset.json of EDM in the source says, else what the folders say."""
        try:
            listed = read_edm(index, self.root) if index is not None else None
            return edm_labels(listed, names, self.root) if listed else folder_labels(names)
        except GsdError as error:  # someone else's dataset.json
            self.index.append(error.message)
            return folder_labels(names)

    def notes(self) -> tuple[str, ...]:
        """What was passed over and may have been meant."""
        found = (
            (self.links, "links to folders are not followed"),
            (self.archives, "archives inside are not opened"),
            (self.index, "its dataset.json is not used"),
        )
        return tuple(f"{self.root}: {what}: {_some(sorted(names))}" for names, what in found if names)


def refusal(name: str, size: int, stored: int) -> str | None:
    """Why a member of an archive (bytes unpacked, bytes stored) may not be read; None when it may."""
    parts = PurePosixPath(name).parts
    if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
        return "its path leads out of the archive"
    if size > MAX_MEMBER_BYTES or (size > RATIO_MATTERS and size > MAX_RATIO * max(1, stored)):
        return f"claims {size:,} bytes, a decompression bomb"
    return None


def _hidden(parts: tuple[str, ...]) -> bool:
    return any(part == "__MACOSX" or (part.startswith(".") and part not in ("..", ".")) for part in parts)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
