"""Labels of pictures: classes (one number each) or attributes (a 0/1 list each), from folders or from a file."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from gsd_cli.errors import GsdError

T = TypeVar("T")
Value = int | tuple[int, ...]
_HINT = "a CSV of name,label, list_attr_celeba.txt, or a dataset.json of EDM"


@dataclass(frozen=True)
class Labels:
    """One value per picture: all ints (class numbers from 0), or all tuples of 0 and 1, one per attribute.

    `classes` and `attributes` name them where names are known.
    """

    values: Sequence[Value]
    classes: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()


def folder_labels(names: Sequence[str]) -> Labels | None:
    """Classes from the top-level folders, sorted, when every picture lies in one of several; else None."""
    parts = [PurePosixPath(name).parts for name in names]
    tops = sorted({p[0] for p in parts if len(p) > 1})
    if len(tops) < 2 or any(len(p) < 2 for p in parts):
        return None
    number = {top: i for i, top in enumerate(tops)}
    return Labels([number[p[0]] for p in parts], classes=tuple(tops))


def read_labels(file: Path, names: Sequence[str]) -> Labels:
    """The labels of `names` in a file; it may hold more. Raises GsdError (exit 3) naming what is wrong.

    file: EDM's dataset.json; CelebA's list_attr_celeba.txt or CelebAMask-HQ's annotation (a count, the attributes'
    names, then a name and -1/1 a line); a CSV of `name,label` with or without a header, labels being numbers or
    names; a CSV with more columns, whose header names 0/1 or -1/1 attributes. Pictures are found by their path in
    the source, else by their file name where that is unambiguous.
    """
    try:
        raw = file.read_bytes()
        if file.suffix.lower() == ".json":
            listed = read_edm(raw, file)
            if not listed:
                raise GsdError(f"{file} holds no labels", hint=_HINT)
            return edm_labels(listed, names, file)
        text = raw.decode("utf-8-sig", "surrogateescape")
    except OSError as error:
        raise GsdError(f"cannot read {file}: {error.strerror}", hint=_HINT) from error
    lines = text.splitlines()
    if len(lines) > 2 and lines[0].strip().isdigit() and "," not in lines[1]:
        return _attributes(file, lines[1].split(), [line.split() for line in lines[2:] if line.strip()], names)
    try:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise GsdError(f"{file} is no CSV: {error}", hint=_HINT) from error
    if rows and len(rows[0]) > 2:
        return _attributes(file, rows[0][1:], rows[1:], names)
    return _classes(file, rows, names)


def read_edm(payload: bytes, where: Path) -> dict[str, Any] | None:
    """EDM's dataset.json, name to label; None when it says that there are none. Raises GsdError (exit 3)."""
    try:
        found = json.loads(payload)["labels"]
        listed = None if found is None else dict(found)
        if any(not isinstance(name, str) for name in listed or ()):
            raise TypeError("a name that is no text")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise GsdError(
            f"{where}: no dataset.json of EDM: {error!r}", hint='{"labels": [[name, label], ...]}'
        ) from error
    return listed


def edm_labels(listed: Mapping[str, Any], names: Sequence[str], where: Path) -> Labels:
    """Labels as EDM writes them: class numbers, or lists of 0 and 1."""
    values = [tuple(v) if isinstance(v, list) else v for v in _match(listed, names, where)]
    if all(isinstance(v, tuple) and len(v) == len(values[0]) and set(v) <= {0, 1} for v in values):
        return Labels([tuple(int(x) for x in v) for v in values])
    for name, value in zip(names, values, strict=True):
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise GsdError(f"{where}: the label of {name} is {value!r}", hint="class numbers, or lists of 0 and 1")
    return Labels(values)


def _classes(file: Path, rows: list[list[str]], names: Sequence[str]) -> Labels:
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or not all(row):
            raise GsdError(f"{file}, row {number}: {','.join(row)!r} is not name,label", hint=_HINT)
    if rows and not _known(rows[0][0], names):
        rows = rows[1:]  # a header
    listed = _unique(file, [(row[0], row[1]) for row in rows])
    texts = _match(listed, names, file)
    if all(text.isascii() and text.isdigit() for text in texts):
        return Labels([int(text) for text in texts])
    classes = sorted(set(texts))
    number_of = {text: i for i, text in enumerate(classes)}
    return Labels([number_of[text] for text in texts], classes=tuple(classes))


def _attributes(file: Path, header: list[str], rows: list[list[str]], names: Sequence[str]) -> Labels:
    pairs: list[tuple[str, Value]] = []
    for row in rows:
        if len(row) != 1 + len(header) or not set(row[1:]) <= {"-1", "0", "1"}:
            hint = f"a name and {len(header)} times -1, 0 or 1"
            raise GsdError(f"{file}: {row[0]}: not one -1 or 1 for each attribute", hint=hint)
        pairs.append((row[0], tuple(int(cell == "1") for cell in row[1:])))
    return Labels(_match(_unique(file, pairs), names, file), attributes=tuple(header))


def _unique(file: Path, pairs: list[tuple[str, T]]) -> dict[str, T]:
    listed: dict[str, T] = {}
    for name, value in pairs:
        if listed.setdefault(name, value) != value:
            raise GsdError(f"{file}: {name} has two labels", hint="one label for each picture")
    return listed


def _known(name: str, names: Sequence[str]) -> bool:
    return any(_plain(n) == _plain(name) or PurePosixPath(n).name == name for n in names)


def _match(listed: Mapping[str, T], names: Sequence[str], where: Path) -> list[T]:
    """The label of each name: by its path, else by its file name when no two pictures share that."""
    by_path = {_plain(name): label for name, label in listed.items()}
    files = [PurePosixPath(name).name for name in names]
    unambiguous = len(set(files)) == len(files)
    values, missing = [], []
    for name, file in zip(names, files, strict=True):
        if (path := _plain(name)) in by_path:
            values.append(by_path[path])
        elif unambiguous and file in by_path:
            values.append(by_path[file])
        else:
            missing.append(name)
    if missing:
        some = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise GsdError(
            f"{where}: no label for {some}", hint="name pictures by their path in the source, or by file name"
        )
    return values


def _plain(name: str) -> str:
    return str(PurePosixPath(name.replace("\\", "/")))
