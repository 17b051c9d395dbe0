"""Which image a label file means: names are compared by path, file name, without suffix, and last without case."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Generic, TypeVar

from gsd_cli.base.errors import GsdError
from gsd_cli.base.text import plural

T = TypeVar("T")
Say = Callable[[str], None]


class MissingLabels(GsdError):
    """Images for which a label file has no label; `names` are all of them."""

    def __init__(self, message: str, names: Sequence[str], *, hint: str):
        super().__init__(message, hint=hint)
        self.names = list(names)


@dataclass(frozen=True)
class Listed(Generic[T]):
    """The labels in a file by the names that it writes. empty: names without a label, and where the file has them."""

    labels: Mapping[str, T]
    empty: Mapping[str, str]


def normalise_path(name: str) -> str:
    """A path in the form in which paths are compared: slashes, no leading dot, accents composed (NFC)."""
    return str(PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/"))))


def make_readable(name: str) -> str:
    """A file's name whose bytes are not UTF-8, as Windows-1252; other names as they are."""
    try:
        name.encode()
        return name
    except UnicodeEncodeError:
        pass
    try:
        return name.encode("utf-8", "surrogateescape").decode("cp1252", "replace")
    except UnicodeEncodeError:  # half a character that JSON wrote as an escape
        return name


def knows(names: Sequence[str]) -> Callable[[str], bool]:
    """A function that says whether a text of a label file is the name of an image."""
    spelt = {spelling.casefold() for name in names for spelling in _spellings(name)}
    return lambda text: _comparable(text).casefold() in spelt


def match(listed: Listed[T], names: Sequence[str], where: Path, say: Say, what: str = "label") -> list[T]:
    """The label of each name: by its path, else by a shorter spelling that no two images share.

    Names that differ in case alone are matched last, and `say` gets a line on it. what: a label, in
    messages. Raises MissingLabels.
    """
    spellings = [_spellings(name) for name in names]
    find = _finder(listed.labels, spellings)
    find_folded = _finder(listed.labels, [_folded(spelt) for spelt in spellings], folded=True)
    values, missing, folded = list[T](), list[str](), list[str]()
    for name, spelt in zip(names, spellings, strict=True):
        found = find(spelt)
        if found is None and (found := find_folded(_folded(spelt))) is not None:
            folded.append(name)
        if found is None:
            missing.append(name)
        else:
            values.append(found[0])
    if missing:
        raise _missing(listed, names, missing, where, what)
    if folded:
        say(f"{where.name} writes {plural(len(folded), 'name')} in another case ({folded[0]}): taken for the same")
    return values


def _missing(
    listed: Listed[T], names: Sequence[str], missing: Sequence[str], where: Path, what: str
) -> MissingLabels:  # fmt: skip
    """The error that names images without a label."""
    hint = f"--skip-bad leaves out images without a {what}"
    if len(missing) == len(names):
        hint = "name images by their path in the source, or by file name"
    empty = {spelling: row for name, row in listed.empty.items() for spelling in _spellings(name)}
    rows = [(name, next((empty[s] for s in _spellings(name) if s in empty), "")) for name in missing]
    if (named := next(((name, row) for name, row in rows if row), None)) is not None:
        others = f" ({len(missing) - 1} more images have no {what})" if len(missing) > 1 else ""
        return MissingLabels(f"{where}, {named[1]}: the {what} of {named[0]} is empty{others}", missing, hint=hint)
    some = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    return MissingLabels(f"{where}: no {what} for {some}", missing, hint=hint)


def _finder(
    labels: Mapping[str, T], spellings: Sequence[Sequence[str]], *, folded: bool = False
) -> Callable[[Sequence[str]], tuple[T] | None]:
    """A function from the spellings of an image to its label; a text that two labels or two images share finds none.

    folded: without regard to case.
    """
    by_text: dict[str, T] = {}
    unclear: set[str] = set()
    for name, label in labels.items():
        text = _comparable(name).casefold() if folded else _comparable(name)
        if by_text.setdefault(text, label) != label:
            unclear.add(text)
    unique = [len({spelt[form] for spelt in spellings}) == len(spellings) for form in range(4)]
    unique[0] = unique[0] or not folded

    def find(spelt: Sequence[str]) -> tuple[T] | None:
        for form, text in enumerate(spelt):
            if text in by_text and text not in unclear and unique[form]:
                return (by_text[text],)
        return None

    return find


def _folded(spelt: Sequence[str]) -> list[str]:
    return [text.casefold() for text in spelt]


def _comparable(name: str) -> str:
    return normalise_path(make_readable(name))


def _spellings(name: str) -> tuple[str, str, str, str]:
    """How a label file may write an image: its path or its file name, with or without the suffix."""
    path = _comparable(name)
    bare = path[: path.rindex(".")] if "." in path.rpartition("/")[2][1:] else path
    return path, path.rpartition("/")[2], bare, bare.rpartition("/")[2]
