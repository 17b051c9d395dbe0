"""Tables of labels as people have them: separators, encodings, columns, and JSON of several shapes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

LABEL_COLUMNS = (
    "label", "labels", "class", "class_name", "label_name", "category", "target", "kind", "class_id", "label_id",
    "species", "breed", "diagnosis",
)  # fmt: skip
"""Headers of the column that holds the class, the likeliest first."""
FILE_COLUMNS = ("file_name", "filename", "file", "path", "filepath", "image_path", "image", "image_id", "name", "id")


def decode_text(raw: bytes) -> tuple[str, str]:
    """The text of a file and its encoding: UTF-8 or UTF-16 by its mark, else UTF-8, else Windows-1252.

    Raises ValueError where it is none of these.
    """
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return raw.decode("utf-16"), "UTF-16"
        except UnicodeDecodeError as error:
            raise ValueError("its mark says UTF-16, and its bytes are not") from error
    if b"\0" in raw:
        raise ValueError("it holds zero bytes: it is no text, or UTF-16 without a mark")
    for codec, name in (("utf-8-sig", "UTF-8"), ("cp1252", "Windows-1252")):
        try:
            return raw.decode(codec), name
        except UnicodeDecodeError:
            continue
    raise ValueError("it is neither UTF-8 nor Windows-1252")


def read_rows(text: str) -> list[list[str]]:
    """The rows of a table, without empty ones; its cells are stripped. Raises csv.Error.

    The separator is the first of comma, semicolon, tab and white space that gives every row as many cells, two or more.
    """
    first: list[list[str]] = []
    for separator in (",", ";", "\t", None):
        rows = _split(text, separator)
        first = first or rows
        if rows and len(rows[0]) > 1 and all(len(row) == len(rows[0]) for row in rows):
            return rows
    return first


def _split(text: str, separator: str | None) -> list[list[str]]:
    if separator is None:
        rows = [line.rsplit(None, 1) for line in text.splitlines()]
    else:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator))
    return [[cell.strip() for cell in row] for row in rows if any(cell.strip() for cell in row)]


def choose_columns(rows: Sequence[Sequence[str]], is_image: Callable[[str], bool]) -> tuple[int, int | None]:
    """The columns of names and of labels; None where no column of many is known to hold labels.

    The names are where most cells name images, else where the header says so, else in the first column.
    """
    width = len(rows[0])
    header = [cell.lower() for cell in rows[0]]
    sample = rows[:: max(1, len(rows) // 50)]
    known = [sum(is_image(row[column]) for row in sample if column < len(row)) for column in range(width)]
    by_header = next((header.index(name) for name in FILE_COLUMNS if name in header), 0)
    names = known.index(max(known)) if max(known) else by_header
    if width == 2:
        return names, 1 - names
    labels = [header.index(name) for name in LABEL_COLUMNS if name in header]
    return names, next((column for column in labels if column != names), None)


def parse_json(raw: bytes) -> dict[str, Any] | None:
    """Labels by name from JSON; None where it declares none. Raises ValueError, TypeError, KeyError or RecursionError.

    {"labels": L} or L itself, which is [[name, label], ...], {name: label} or [{"file_name": ..., "label": ...}, ...];
    such objects one a line (JSON lines) too.
    """
    found = load_json(decode_text(raw)[0])
    if isinstance(found, dict) and "labels" in found:
        found = found["labels"]
        if found is None:
            return None
    elif isinstance(found, dict) and not all(isinstance(value, str | int | float) for value in found.values()):
        raise KeyError("labels")
    if isinstance(found, list) and found and all(isinstance(entry, dict) for entry in found):
        found = [_pair(entry) for entry in found]
    if not isinstance(found, dict | list) or (isinstance(found, list) and not found):
        raise ValueError("no list of names and labels")
    listed = dict(found)
    if any(not isinstance(name, str) for name in listed):
        raise TypeError("a name that is no text")
    return listed


def load_json(text: str) -> Any:
    """The content of JSON, or the list of the objects of JSON lines. Raises ValueError."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]


def name_and_value(entry: dict[str, Any], columns: Sequence[str]) -> tuple[Any, Any]:
    """The file that an object names, and its value under the first of `columns` that it has; None for a missing one."""
    name, value = (next((entry[key] for key in keys if key in entry), None) for keys in (FILE_COLUMNS, columns))
    return name, value


def _pair(entry: dict[str, Any]) -> tuple[Any, Any]:
    found = name_and_value(entry, LABEL_COLUMNS)
    if None in found:
        raise KeyError("label")
    return found
