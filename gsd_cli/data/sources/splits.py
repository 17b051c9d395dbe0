"""Folders that are splits (train, val, test): above the classes, or below them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gsd_cli.base.errors import ExitCode, GsdError

_SPLIT = re.compile(
    r"(?:[a-z]+[ _-])?(train|training|val|valid|validation|dev|test|testing|extra|pred|unlabell?ed)"
    r"(?:[ _-]?(?:set|data|images?|imgs|lmdb|\d+))*"
)
_PARTS = {
    "training": "train", "valid": "val", "validation": "val", "dev": "val", "testing": "test",
}  # fmt: skip
DEFAULT = "train"
"""The split that is read without --split. A source without splits is all of it."""
Folders = tuple[str, ...]


@dataclass(frozen=True)
class Selection:
    """The images of one split: their places among all, and their paths without the folders that say nothing."""

    places: Sequence[int]
    paths: list[Folders]
    messages: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def select_split(paths: Sequence[Folders], split: str, where: Path) -> Selection:
    """The images in the folders of a split; all of them where folders are not splits.

    Folders are splits at the first depth where all images have one and there are two or more. Raises GsdError (exit 2)
    where the split is not there, unless it is the default and there are none.
    """
    inner = unwrap(paths)
    depth = next((d for d in range(min(map(len, inner), default=1) - 1) if _are_splits(inner, d)), None)
    if depth is None:
        require_no_split(split, where, common_folders(paths))
        return Selection(range(len(inner)), inner, warnings=_warn_of_mixed(inner, where))
    parts = {part_of(path[depth]) for path in inner}
    wanted = _main_name(split)
    if wanted not in parts:
        known = " or ".join(sorted(str(part) for part in parts))
        raise GsdError(f"{where} has no split {split!r}", hint=known, code=ExitCode.USAGE)
    chosen = [place for place, path in enumerate(inner) if part_of(path[depth]) == wanted]
    others = ", ".join(sorted(str(part) for part in parts if part != wanted))
    below = " of folders below the classes" if depth else ""
    message = f"split {wanted}: {len(chosen)} of {len(paths)} images{below} (--split takes {others} instead)"
    return Selection(chosen, unwrap([_without(inner[place], depth) for place in chosen]), (message,))


def _are_splits(paths: Sequence[Folders], depth: int) -> bool:
    parts = {part_of(path[depth]) for path in paths}
    return None not in parts and len(parts) > 1


def _without(path: Folders, depth: int) -> Folders:
    return path[depth + 1 :] if depth == 0 else (*path[:depth], *path[depth + 1 :])


def _warn_of_mixed(paths: Sequence[Folders], where: Path) -> tuple[str, ...]:
    """A line where only some folders look like splits, so that all are read."""
    for depth in range(2):
        found = {part_of(path[depth]): "/".join(path[: depth + 1]) for path in paths if len(path) > depth + 1}
        named = sorted(str(folder) for part, folder in found.items() if part in ("train", "val", "test"))
        if len(named) > 1:
            other = next("/".join(p) for p in paths if len(p) <= depth + 1 or part_of(p[depth]) is None)
            return (f"{where}: {' and '.join(named)} look like splits, but {other} is in none: all images are read",)
    return ()


def require_no_split(split: str, where: Path, folders: Sequence[str] = ()) -> None:
    """Raise GsdError (exit 2) where a source without splits is asked for one that its name or a folder does not say.

    folders: those that contain all of it.
    """
    wanted = _main_name(split)
    words = [word for name in (where.name, *folders) for word in re.split(r"[ ._-]+", name)]
    if wanted != DEFAULT and wanted not in {part_of(word) for word in words}:
        hint = "leave out --split; folders named train/, val/ and test/ are splits"
        raise GsdError(f"{where} has no split {split!r}: it has no splits", hint=hint, code=ExitCode.USAGE)


def part_of(folder: str) -> str | None:
    """The split that a folder's name means: train, val, test or another; None where it means none."""
    found = _SPLIT.fullmatch(folder.lower())
    return _PARTS.get(found[1], found[1]) if found else None


def _main_name(split: str) -> str:
    return _PARTS.get(split.lower(), split.lower())


def common_folders(paths: Sequence[Folders]) -> Folders:
    """The folders that all paths begin with: they contain the whole source."""
    if not paths:
        return ()
    low, high = min(paths)[:-1], max(paths)[:-1]
    same = [a == b for a, b in zip(low, high, strict=False)]
    return low[: same.index(False) if False in same else len(same)]


def unwrap(paths: Sequence[Folders]) -> list[Folders]:
    """The paths without the folders that contain all of them."""
    depth = len(common_folders(paths))
    return [path[depth:] for path in paths]
