"""Captions of images: one text each, from a table, JSON, COCO's annotations, or a folder of text files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gsd_cli.base.errors import GsdError
from gsd_cli.base.text import plural
from gsd_cli.data.label_names import Listed, Say, knows, match
from gsd_cli.data.label_tables import FILE_COLUMNS, decode_text, load_json, name_and_value

CAPTION_COLUMNS = ("caption", "captions", "text", "prompt", "description", "title", "label")
"""Headers of the column that holds the caption, the likeliest first."""
_HINT = "a CSV of name,caption, a metadata.jsonl of file_name and text, COCO's captions, or a folder of .txt files"
_SEPARATORS = (",", ";", "\t")
Pair = tuple[str, str]
"""The name of an image, and its caption."""


def read_captions(file: Path, names: Sequence[str], say: Say = lambda text: None) -> list[str]:
    """The caption of each image of `names`, without space around it; the file may hold others too.

    file: a CSV of `name,caption` with or without a header, or with more columns, whose header names the caption; JSON
    or JSON lines of {"file_name": ..., "text": ...} (as Hugging Face's image folders have them), of pairs, of {name:
    caption}, or of COCO's captions; a folder of text files that are named as the images. Images are found as by
    `read_labels`. Of several captions of an image the first is taken. Raises MissingLabels (exit 3) where some have
    none, and GsdError (exit 3) for other faults.
    """
    try:
        pairs = list(_read_folder(file) if file.is_dir() else _read_file(file, names))
    except OSError as error:
        raise GsdError(f"cannot read {file}: {error.strerror}", hint=_HINT) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, csv.Error) as error:
        raise GsdError(f"{file} holds no captions: {error}", hint=_HINT) from error
    first: dict[str, str] = {}
    empty: dict[str, str] = {}
    several = 0
    for number, (name, text) in enumerate(pairs, 1):
        if not text.strip():
            empty[name] = f"entry {number}"
        elif first.setdefault(name, " ".join(text.split())) != " ".join(text.split()):
            several += 1
    if several:
        say(f"{file.name} has {plural(several, 'more caption')} of images that have one: the first is taken")
    return match(Listed(first, empty), names, file, say, what="caption")


def _read_folder(folder: Path) -> Iterator[Pair]:
    for path in sorted(folder.rglob("*.txt")):
        yield path.relative_to(folder).with_suffix("").as_posix(), decode_text(path.read_bytes())[0]


def _read_file(file: Path, names: Sequence[str]) -> Iterator[Pair]:
    text, _ = decode_text(file.read_bytes())
    if file.suffix.lower() in (".json", ".jsonl"):
        return _read_json(text)
    return _read_table(text, names)


def _read_table(text: str, names: Sequence[str]) -> Iterator[Pair]:
    """A table of two columns, or one whose header names the columns. A comma in an unquoted caption is part of it."""
    rows = _split(text)
    known = knows(names)
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    named = next((header.index(name) for name in FILE_COLUMNS if name in header), None)
    captioned = next((header.index(name) for name in CAPTION_COLUMNS if name in header), None)
    if named is not None and captioned is not None and not known(rows[0][named]):
        yield from ((row[named], row[captioned]) for row in rows[1:] if max(named, captioned) < len(row))
        return
    if any(len(row) < 2 for row in rows):
        raise ValueError(f"{next(row for row in rows if len(row) < 2)[0]!r} is not name,caption")
    yield from ((row[0].strip(), ", ".join(cell.strip() for cell in row[1:])) for row in rows)


def _split(text: str) -> list[list[str]]:
    """The rows at the separator that gives every one as many cells, two or more; else at the first that all have."""
    fallback: list[list[str]] = []
    for separator in _SEPARATORS:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator) if any(row)]
        if rows and all(len(row) > 1 for row in rows):
            if all(len(row) == len(rows[0]) for row in rows):
                return rows
            fallback = fallback or rows
    if not fallback:
        raise ValueError("its rows are not name,caption")
    return fallback


def _read_json(text: str) -> Iterator[Pair]:
    found = load_json(text)
    if isinstance(found, dict) and {"images", "annotations"} <= found.keys():
        names = {image["id"]: image["file_name"] for image in found["images"]}
        found = [[names[one["image_id"]], one["caption"]] for one in found["annotations"]]
    elif isinstance(found, dict):
        one = any(key in found for key in FILE_COLUMNS)  # the only line of JSON lines
        found = [found] if one else found.get("captions", found)
    entries = found.items() if isinstance(found, dict) else found
    for entry in entries:
        name, caption = _pair(entry) if isinstance(entry, dict) else entry
        if not isinstance(name, str) or not isinstance(caption, str):
            raise ValueError(f"{entry!r} is not a name and a text")
        yield name, caption


def _pair(entry: dict[str, Any]) -> tuple[Any, Any]:
    name, caption = name_and_value(entry, CAPTION_COLUMNS)
    return name, caption[0] if isinstance(caption, list) and caption else caption
