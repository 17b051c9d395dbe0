"""Labels of images: classes (one number each) or attributes (a 0/1 list each), from folders or from a file."""

from __future__ import annotations

import csv
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gsd_cli.base.errors import GsdError
from gsd_cli.data.label_names import Listed, Say, knows, match
from gsd_cli.data.label_tables import choose_columns, decode_text, parse_json, read_rows

T = TypeVar("T")
Value = int | tuple[int, ...]
MOST_GAPS = 10
"""Numbers in a CSV that are below this many times their count are class numbers; larger ones are names."""
_HINT = "a CSV of name,label, list_attr_celeba.txt, or a dataset.json of EDM"


@dataclass(frozen=True)
class Labels:
    """One value per image: all ints (class numbers from 0), or all tuples of 0 and 1, one per attribute.

    `classes` and `attributes` name them where names are known.
    """

    values: Sequence[Value]
    classes: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()


def describe_labels(labels: Labels, origin: str) -> str:
    """One line: how many classes or attributes, from where, and the first of their names."""
    if labels.attributes or (labels.values and isinstance(labels.values[0], tuple)):
        count = len(labels.attributes) or len(labels.values[0])  # type: ignore[arg-type]
        return f"{count} attributes from {origin}" + _names(labels.attributes)
    if labels.classes:
        return f"{len(labels.classes)} classes from {origin}" + _names(labels.classes)
    numbers = sorted(set(labels.values))  # type: ignore[type-var]
    gaps = numbers[-1] + 1 - len(numbers) if numbers else 0  # type: ignore[operator]
    missing = f", {gaps} of them without an image" if gaps else ""
    return f"{len(numbers) + gaps} classes from {origin}: numbers 0 to {numbers[-1] if numbers else 0}{missing}"


def _names(names: Sequence[str], most: int = 10) -> str:
    if not names:
        return ""
    return f": {', '.join(names[:most])}" + (f" and {len(names) - most} more" if len(names) > most else "")


def sort_names(names: Iterable[str]) -> list[str]:
    """Sorted: as numbers when all are numbers (1, 2, 10), else as text."""
    names = set(names)
    if all(_number(name) is not None for name in names):
        return sorted(names, key=lambda name: (_number(name), name))
    return sorted(names)


def _number(text: str) -> float | None:
    try:
        value = float(text) if text.isascii() and "_" not in text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def number_classes(numbers: Sequence[int]) -> Labels:
    """Class numbers; if they count from 1 without a gap, they are shifted to count from 0 and keep their names."""
    found = set(numbers)
    if len(found) > 1 and found == set(range(1, len(found) + 1)):
        return Labels([n - 1 for n in numbers], classes=tuple(str(n) for n in sorted(found)))
    return Labels(list(numbers))


def read_labels(file: Path, names: Sequence[str], say: Say = lambda text: None) -> Labels:
    """Read the labels of `names` from a file, which may hold others too.

    Raises MissingLabels (exit 3) where some have none, and GsdError (exit 3) with the cause for other faults.

    file: JSON such as EDM's dataset.json; CelebA's list_attr_celeba.txt or CelebAMask-HQ's annotation (a count, the
    attributes' names, then lines of a name and -1/1 values); a CSV of `name,label` with or without a header, where
    labels are numbers or names; a CSV with more columns, whose header names one that holds labels (label, class ...),
    or 0/1 or -1/1 attributes. Semicolons, tabs and white space separate too. Images are found by their path in the
    source, else by their file name where no two images share it, with or without the suffix. say: gets lines on what
    was guessed (the encoding, names in another case).
    """
    try:
        raw = file.read_bytes()
        if file.suffix.lower() in (".json", ".jsonl"):
            listed = read_edm(raw, file)
            if not listed:
                raise GsdError(f"{file} holds no labels", hint=_HINT)
            return edm_labels(listed, names, file, say=say)
        text, encoding = decode_text(raw)
    except OSError as error:
        raise GsdError(f"cannot read {file}: {error.strerror}", hint=_HINT) from error
    except ValueError as error:
        raise GsdError(f"{file}: {error}", hint="save it as text in UTF-8") from error
    if encoding == "Windows-1252":
        say(f"{file.name} is not in UTF-8: read as {encoding}")
    lines = text.splitlines()
    if len(lines) > 2 and lines[0].strip().isdigit() and "," not in lines[1]:
        return _attributes(file, lines[1].split(), [line.split() for line in lines[2:] if line.strip()], names, say)
    try:
        rows = read_rows(text)
    except csv.Error as error:
        raise GsdError(f"{file} is no CSV: {error}", hint=_HINT) from error
    if rows and len(rows[0]) > 2:
        return _columns(file, rows, names, say)
    return _classes(file, rows, names, say)


def _columns(file: Path, rows: list[list[str]], names: Sequence[str], say: Say) -> Labels:
    """A table of three columns or more: one of them is named as labels, or all but the first are attributes."""
    named, labelled = choose_columns(rows, knows(names))
    if labelled is None:
        return _attributes(file, rows[0][1:], rows[1:], names, say)
    rows = [[row[named], row[labelled]] for row in rows if max(named, labelled) < len(row)]
    return _classes(file, rows, names, say)


def read_edm(payload: bytes, where: Path) -> dict[str, Any] | None:
    """Parse EDM's dataset.json to labels by name; None when it declares none. Raises GsdError (exit 3)."""
    try:
        listed = parse_json(payload)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise GsdError(
            f"{where}: no dataset.json of EDM: {error!r}", hint='{"labels": [[name, label], ...]}'
        ) from error
    return listed


def edm_labels(
    listed: Mapping[str, Any],
    names: Sequence[str],
    where: Path,
    classes: tuple[str, ...] = (),
    attributes: tuple[str, ...] = (),
    say: Say = lambda text: None,
) -> Labels:
    """Labels from EDM's values, class numbers or lists of 0 and 1; with their names where they are known."""
    given = {name: value for name, value in listed.items() if value is not None}
    empty = dict.fromkeys(listed.keys() - given.keys(), "null")
    values = [tuple(v) if isinstance(v, list) else v for v in match(Listed(given, empty), names, where, say)]
    if all(isinstance(v, tuple) and len(v) == len(values[0]) and _flags(v) for v in values):
        fits = bool(values) and len(attributes) == len(values[0])
        return Labels([tuple(int(x) for x in v) for v in values], attributes=attributes if fits else ())
    if values and all(isinstance(value, str) for value in values):
        return name_classes([str(value) for value in values])
    numbers: list[int] = []
    for name, value in zip(names, values, strict=True):
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value % 1 != 0:
            raise GsdError(f"{where}: the label of {name} is {value!r}", hint="class numbers, or lists of 0 and 1")
        numbers.append(int(value))
    if classes and max(numbers, default=0) < len(classes):
        return Labels(numbers, classes)
    return number_classes(numbers)


def _flags(values: tuple[Any, ...]) -> bool:
    return all(isinstance(value, int | float) and value in (0, 1) for value in values)


def _classes(file: Path, rows: list[list[str]], names: Sequence[str], say: Say) -> Labels:
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or not any(row):
            raise GsdError(f"{file}, row {number}: {','.join(row)!r} is not name,label", hint=_HINT)
    known = knows(names)
    numbered = list(enumerate(rows, 1))
    if rows and not known(rows[0][0]) and choose_columns(rows, known)[0] == 1:
        numbered = [(number, [row[1], row[0]]) for number, row in numbered]
    if numbered and not known(numbered[0][1][0]):
        numbered = numbered[1:]  # a header
    for number, row in numbered:
        if not row[0]:
            raise GsdError(f"{file}, row {number}: {','.join(row)!r} names no image", hint=_HINT)
    empty = {row[0]: f"row {number}" for number, row in numbered if not row[1]}
    listed = Listed(_unique(file, [(row[0], row[1]) for _, row in numbered if row[1]]), empty)
    texts = match(listed, names, file, say)
    numbers = [_number(text) for text in texts]
    if all(number is not None and number >= 0 and number.is_integer() for number in numbers):
        whole = [int(number) for number in numbers if number is not None]
        if max(whole, default=0) < MOST_GAPS * len(set(whole)):
            return number_classes(whole)  # else they are codes: most classes up to the largest would be empty
    return name_classes(texts)


def name_classes(texts: Sequence[str]) -> Labels:
    """Classes by name, numbered in the order of their names."""
    texts = [unicodedata.normalize("NFC", text) for text in texts]
    classes = sort_names(texts)
    number_of = {text: i for i, text in enumerate(classes)}
    return Labels([number_of[text] for text in texts], classes=tuple(classes))


def _attributes(file: Path, header: list[str], rows: list[list[str]], names: Sequence[str], say: Say) -> Labels:
    pairs: list[tuple[str, Value]] = []
    for row in rows:
        if len(row) != 1 + len(header) or not set(row[1:]) <= {"-1", "0", "1"}:
            hint = f"a name and {len(header)} times -1, 0 or 1"
            raise GsdError(f"{file}: {row[0]}: not one -1 or 1 for each attribute", hint=hint)
        pairs.append((row[0], tuple(int(cell == "1") for cell in row[1:])))
    return Labels(match(Listed(_unique(file, pairs), {}), names, file, say), attributes=tuple(header))


def _unique(file: Path, pairs: list[tuple[str, T]]) -> dict[str, T]:
    listed: dict[str, T] = {}
    for name, value in pairs:
        if listed.setdefault(name, value) != value:
            raise GsdError(f"{file}: {name} has two labels", hint="one label per image")
    return listed
