"""Which files of a folder or an archive are read as images, which are refused and why, and which are passed over."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from gsd_cli.base.errors import GsdError
from gsd_cli.catalogue.file_formats import ARCHIVE_SUFFIXES, IMAGE_SUFFIXES, OTHER_SUFFIXES, looks_like_image
from gsd_cli.data.sources.layout import COMPANIONS, SIDECAR

MAX_MEMBER_BYTES = 512 * 2**20
MAX_RATIO, RATIO_MATTERS = 200, 64 * 2**20
"""A member that unpacks to more than this many times its size and more than this many bytes is a bomb."""


_SYSTEM = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found", "Thumbs.db", "ehthumbs.db", "desktop.ini", "Icon\r"}


_TABLES = (".csv", ".tsv", ".jsonl")
_MAYBE_TABLES = (".txt", ".json")
_ABOUT_LABELS = re.compile(r"label|class|categor|annot|anno\b|attr|target|metadata")
"""In the names of files that may hold labels."""


class Listing:
    """The files of a source that are not read as images, collected while the source is listed."""

    def __init__(self, root: Path):
        self.root = root
        self.refused: list[tuple[str, str]] = []
        self.links: list[str] = []
        self.archives: list[str] = []
        self.databases: list[str] = []
        self.others: Counter[str] = Counter()
        self.tables: list[str] = []

    def is_image(self, name: str, head: Callable[[], bytes] = bytes) -> bool:
        """Whether a file may be an image: by its suffix, or by its first bytes where the suffix says nothing.

        Records other files. head: returns the file's first 16 bytes.
        """
        # tar writes ./a.png: the dot is no folder
        path = PurePosixPath(name.replace("\\", "/"))
        suffix = path.suffix.lower()
        if hidden(path.parts):
            return False
        if suffix in IMAGE_SUFFIXES or suffix == ".npy" or (suffix not in OTHER_SUFFIXES and looks_like_image(head())):
            return True
        if name.lower().endswith(ARCHIVE_SUFFIXES):
            self.archives.append(name)
        elif suffix == ".mdb":
            self.databases.append(name)
        elif path.name not in COMPANIONS and suffix != SIDECAR:
            self.others[suffix or "without suffix"] += 1
            if suffix in _TABLES or (suffix in _MAYBE_TABLES and _ABOUT_LABELS.search(path.stem.lower())):
                self.tables.append(name)
        return False

    def admit(self, members: Iterable[tuple[str, int, int, str | None]]) -> Iterator[str]:
        """The names of an archive's members that may be read.

        members: (name, bytes unpacked, bytes stored, a cause to refuse it or None).
        """
        seen: set[str] = set()
        for name, size, stored, cause in members:
            cause = cause or refusal(name, size, stored) or ("a second member of that name" if name in seen else None)
            seen.add(name)
            if cause:
                self.refused.append((name, cause))
            else:
                yield name

    def select(self, names: Sequence[str]) -> list[str]:
        """The names without arrays (.npy), which are images only where a source has no others."""
        images = [name for name in names if not name.lower().endswith(".npy")]
        if not images or len(images) == len(names):
            return list(names)
        self.others[".npy"] += len(names) - len(images)
        return images

    def require(self, names: Sequence[str]) -> None:
        """Raise GsdError (exit 3) when there is no image at all, good or refused."""
        if names or self.refused:
            return
        hint = f"looked for {', '.join(sorted(IMAGE_SUFFIXES))}"
        if self.archives or self.databases:
            hint = f"it holds {(self.archives + self.databases)[0]}: unpack that first"
        elif self.links:
            hint = f"it holds links to folders, which are not followed: {_some(sorted(self.links))}"
        elif self.others:
            hint = f"it holds {self.messages()[0].removeprefix('files that are ')}"
        raise GsdError(f"no images in {self.root}", hint=hint)

    def warnings(self) -> tuple[str, ...]:
        """Links and archives that were passed over, though the user may have meant them to be read."""
        found = (
            (self.links, "links to folders are not followed"),
            (self.archives, "archives inside are not opened"),
        )
        return tuple(f"{self.root}: {what}: {_some(sorted(names))}" for names, what in found if names)

    def hint_at_tables(self, *, inside: bool) -> str:
        """The end of a line on missing labels: files that may hold them. inside: they are members of an archive."""
        if not self.tables:
            return ""
        first = min(self.tables, key=lambda name: (name.count("/"), name))
        option = "unpack it, and give it with --labels" if inside else f"--labels {shlex.quote(str(self.root / first))}"
        others = f" (or {len(self.tables) - 1} others)" if len(self.tables) > 1 else ""
        return f"; {first}{others} may hold some: {option}"

    def messages(self) -> tuple[str, ...]:
        """One line that counts the files that are not images, by suffix; none where there are no such files."""
        kinds = [f"{count} {suffix}" for suffix, count in sorted(self.others.items(), key=lambda o: (-o[1], o[0]))]
        return (f"files that are not read as images: {_some(kinds, 12)}",) if kinds else ()


def refusal(name: str, size: int, stored: int) -> str | None:
    """Why a member of an archive (bytes unpacked, bytes stored) may not be read; None when it may."""
    parts = PurePosixPath(name).parts
    if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
        return "its path leads out of the archive"
    if size > MAX_MEMBER_BYTES or (size > RATIO_MATTERS and size > MAX_RATIO * max(1, stored)):
        return f"claims {size:,} bytes, a decompression bomb"
    return None


def hidden(parts: tuple[str, ...]) -> bool:
    """Whether a path is hidden by convention or belongs to a system: .DS_Store, .git/x, __MACOSX/x, Thumbs.db."""
    return any(part in _SYSTEM or (part.startswith(".") and part not in ("..", ".")) for part in parts)


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
