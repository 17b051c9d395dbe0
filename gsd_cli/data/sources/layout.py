"""Which images of a source are read, and their classes, from their names and the files next to them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsd_cli.base.errors import GsdError
from gsd_cli.catalogue.run_layout import CARD, DATASET_INDEX
from gsd_cli.data.label_names import make_readable, normalise_path
from gsd_cli.data.labels import (
    Labels,
    describe_labels,
    edm_labels,
    number_classes,
    read_edm,
    sort_names,
)
from gsd_cli.data.sources.splits import common_folders, require_no_split, select_split, unwrap

_HEX = re.compile(r"[0-9a-f]{8,}")
COMPANIONS = (DATASET_INDEX, CARD)
"""Files that describe the images: EDM's labels, and the record of `gsd prepare`."""
SIDECAR = ".cls"
"""The suffix of WebDataset's class numbers, one file next to each image."""


@dataclass(frozen=True)
class Layout:
    """The names of the images to read, and their labels or None.

    labels_message: one line on how labels were read; messages: other decisions to tell the user.
    """

    names: list[str]
    labels: Labels | None
    labels_message: str
    messages: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def read_layout(
    names: Sequence[str], split: str, where: Path, companion: Callable[[str], bytes | None] = lambda name: None
) -> Layout:
    """Decide which images to read and how to label them, from their names and the files next to them.

    companion: returns the content of a file of the source by its path in there, or None. A dataset.json decides the
    labels, also with `labels: null`; it may lie in a folder that contains the whole source. Without one, folders
    decide. Raises GsdError (exit 2) where `split` is not there, unless it is the default.
    """
    warnings: list[str] = []
    paths = [tuple(normalise_path(name).split("/")) for name in names]
    wrapping = common_folders(paths)
    for depth in range(len(wrapping) + 1):
        prefix = "".join(f"{part}/" for part in wrapping[:depth])
        if (index := companion(f"{prefix}{DATASET_INDEX}")) is None:
            continue
        try:
            listed = read_edm(index, where)
        except GsdError as error:  # another program's file of that name
            warnings.append(f"{where}: its dataset.json is not used: {error.message}")
            break
        inside = [normalise_path(name).removeprefix(prefix) for name in names]
        require_no_split(split, where, wrapping)
        return _indexed(list(names), inside, listed, companion(f"{prefix}{CARD}"), where)
    if (numbers := _sidecars(names, companion)) is not None:
        require_no_split(split, where, wrapping)
        numbered = number_classes(numbers)
        return Layout(list(names), numbered, describe_labels(numbered, ".cls files"), warnings=tuple(warnings))
    chosen = select_split(paths, split, where)
    labels, labels_message = _folder_classes(chosen.paths)
    warned = (*warnings, *chosen.warnings)
    return Layout([names[place] for place in chosen.places], labels, labels_message, chosen.messages, warned)


def _indexed(
    names: list[str], inside: list[str], listed: Mapping[str, Any] | None, record: bytes | None, where: Path
) -> Layout:
    """Labels from dataset.json, with the names that an earlier `gsd prepare` recorded."""
    if not listed:
        return Layout(names, None, "no labels: dataset.json says that there are none")
    try:
        labels = edm_labels(listed, inside, where, *recorded_names(_parse_record(record)))
    except GsdError as error:
        cause = f"no labels: those of dataset.json are no classes or attributes ({error.message})"
        return Layout(names, None, cause, warnings=(f"{where}: its dataset.json is not used: {error.message}",))
    return Layout(names, labels, describe_labels(labels, DATASET_INDEX))


def recorded_names(found: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of classes and of attributes in the record of a data set; empty where it has none."""
    try:
        lists = [found.get(key) or () for key in ("classes", "attributes")]
        if all(isinstance(name, str) for names in lists for name in names):
            return tuple(lists[0]), tuple(lists[1])
    except (TypeError, AttributeError):
        pass  # not ours
    return (), ()


def _parse_record(record: bytes | None) -> Any:
    try:
        return json.loads(record or b"{}")
    except (ValueError, RecursionError):
        return None


def _sidecars(names: Sequence[str], companion: Callable[[str], bytes | None]) -> list[int] | None:
    """The class numbers of WebDataset's .cls files; None unless every image has one."""
    numbers = []
    for name in names:
        text = companion(f"{name.rpartition('.')[0]}{SIDECAR}")
        if text is None or not text.strip().isdigit():
            return None
        numbers.append(int(text))
    return numbers or None


# -- classes ------------------------------------------------------------------------------------


def _folder_classes(paths: Sequence[tuple[str, ...]]) -> tuple[Labels | None, str]:
    """Classes from the outermost folders that differ, and one line that explains the decision."""
    paths = unwrap(paths)
    loose = ["/".join(path) for path in paths if len(path) < 2]
    tops = sort_names({path[0] for path in paths if len(path) > 1})
    if not tops:
        return None, "no labels: no folders that differ"
    if loose:
        return None, f"no labels: {len(loose)} of {len(paths)} images lie in no class folder ({loose[0]})"
    if _are_positions(tops, paths):
        return None, "no labels: numbered folders are positions"
    number = {top: i for i, top in enumerate(tops)}
    labels = Labels([number[path[0]] for path in paths], classes=tuple(make_readable(top) for top in tops))
    return labels, describe_labels(labels, "folder names")


def _are_positions(tops: Sequence[str], paths: Sequence[tuple[str, ...]]) -> bool:
    """Whether folders only number their files: 00001/img00001000.png (EDM, gsd), 01000/01234.png (FFHQ).

    Their names are numbers (or hexadecimal) of one length. Either each name is the beginning or the last digits of
    the number of every file in it, or that number rounded down to a power of ten; or all are round thousands from 0.
    """
    width = len(tops[0])
    if width < 2 or any(len(top) != width or not re.fullmatch(r"[0-9a-f]+", top) for top in tops):
        return False
    if width >= 4 and tops[0] == "0" * width and all(top.endswith("000") for top in tops):
        return True
    pairs = [(path[0], _number(path[-1])) for path in paths]
    if all(_HEX.fullmatch(number) and number.startswith(top) for top, number in pairs):
        return True  # also the buckets of hashes: 3f/3f02c9...png
    if width < 3 or not all(number.isdigit() and top.isdigit() for top, number in pairs):
        return False
    values = [(int(top), int(number)) for top, number in pairs]
    rounded = any(all(top in (n // k, n // k * k) for top, n in values) for k in (100, 1000, 10_000, 100_000))
    return rounded or any(all(top == n % k for top, n in values) for k in (1000, 10**width))


def _number(file: str) -> str:
    """The number or the hash at the end of a file's name: 00001000 for img00001000.png."""
    stem = file.rpartition(".")[0] or file
    return stem if _HEX.fullmatch(stem) else stem[len(stem.rstrip("0123456789")) :]
