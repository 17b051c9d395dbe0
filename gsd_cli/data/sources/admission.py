"""What of a folder or an archive is admitted as a picture, what is refused and why, and what was passed over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from gsd_cli.base.errors import GsdError
from gsd_cli.catalogue.file_formats import ARCHIVE_SUFFIXES, IMAGE_SUFFIXES, looks_like_image
from gsd_cli.data.sources.layout import COMPANIONS

MAX_MEMBER_BYTES = 512 * 2**20
MAX_RATIO, RATIO_MATTERS = 200, 64 * 2**20
"""A member that unpacks to more than this many times its size, and to more than this many bytes, is a bomb."""


class Listing:
    """What was met while listing a source, besides the pictures that are admitted."""

    def __init__(self, root: Path):
        self.root = root
        self.refused: list[tuple[str, str]] = []
        self.links: list[str] = []
        self.archives: list[str] = []
        self.databases: list[str] = []
        self.others: Counter[str] = Counter()

    def wanted(self, name: str, head: Callable[[], bytes] = bytes) -> bool:
        """Whether a file is an image: by its name, or where that has no suffix, by how it begins.

        head: the file's first 16 bytes. Takes note of what the file is otherwise.
        """
        # tar writes ./a.png: the dot is no folder
        path = PurePosixPath(name.replace("\\", "/"))
        suffix = path.suffix.lower()
        if hidden(path.parts):
            return False
        if suffix in IMAGE_SUFFIXES or (not suffix and looks_like_image(head())):
            return True
        if name.lower().endswith(ARCHIVE_SUFFIXES):
            self.archives.append(name)
        elif suffix == ".mdb":
            self.databases.append(name)
        elif path.name not in COMPANIONS:
            self.others[suffix or "without suffix"] += 1
        return False

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
        hint = f"looked for {', '.join(sorted(IMAGE_SUFFIXES))}"
        if self.archives or self.databases:
            hint = f"it holds {(self.archives + self.databases)[0]}: unpack that first"
        raise GsdError(f"no images in {self.root}", hint=hint)

    def notes(self) -> tuple[str, ...]:
        """What was passed over and may have been meant."""
        found = (
            (self.links, "links to folders are not followed"),
            (self.archives, "archives inside are not opened"),
        )
        return tuple(f"{self.root}: {what}: {_some(sorted(names))}" for names, what in found if names)

    def passed_over(self) -> tuple[str, ...]:
        """One line that counts the files that are no images by their suffixes; none where there are none."""
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
    """Whether a path is one that systems keep to themselves: .DS_Store, .git/x, __MACOSX/x."""
    return any(part == "__MACOSX" or (part.startswith(".") and part not in ("..", ".")) for part in parts)


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
