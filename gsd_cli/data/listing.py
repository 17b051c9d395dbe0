"""What of a folder or an archive is admitted as a picture, what is refused and why, and what was passed over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from gsd_cli.data.decode import SUFFIXES
from gsd_cli.data.labels import Labels, edm_labels, folder_labels, read_edm
from gsd_cli.errors import GsdError

MAX_MEMBER_BYTES = 512 * 2**20
MAX_RATIO, RATIO_MATTERS = 200, 64 * 2**20
"""A member that unpacks to more than this many times its size, and to more than this many bytes, is a bomb."""
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")


class Listing:
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
        if hidden(path.parts):
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


def hidden(parts: tuple[str, ...]) -> bool:
    """Whether a path is one that systems keep to themselves: .DS_Store, .git/x, __MACOSX/x."""
    return any(part == "__MACOSX" or (part.startswith(".") and part not in ("..", ".")) for part in parts)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
