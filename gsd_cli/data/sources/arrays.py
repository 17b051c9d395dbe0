"""Images in one array: a .npy of [N, H, W] or [N, H, W, C], or an .npz with labels. Nothing pickled is read."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from gsd_cli.base.errors import GsdError
from gsd_cli.base.text import plural
from gsd_cli.data.arrays import channels_last, to_native
from gsd_cli.data.decode import Payload
from gsd_cli.data.label_tables import decode_text
from gsd_cli.data.labels import Labels, describe_labels, name_classes, number_classes
from gsd_cli.data.sources.admission import refusal
from gsd_cli.data.sources.source import Source, identity
from gsd_cli.data.sources.splits import DEFAULT, require_no_split

SUFFIXES = (".npy", ".npz")
_IMAGES = ("{split}_images", "x_{split}", "images", "arr_0", "x", "data")
_LABELS = ("{split}_labels", "y_{split}", "labels", "arr_1", "y", "label", "targets", "target", "classes", "class")
"""The names of arrays: MedMNIST's, Keras's, those of `gsd sample`, of NumPy and of scikit-learn."""


def open_stack(path: Path, split: str = DEFAULT) -> Source:
    """The images of an array, and their classes or attributes.

    Raises GsdError: exit 3 (damaged, no stack of images, or not one label per image), 2 (split).
    """
    try:
        found = _load(path)
    # numpy reads a header with Python's parser, which raises errors of other types
    except Exception as error:
        raise GsdError(f"cannot read {path}: {error}", hint="an array of images that needs no pickle") from error
    key = _choose(found, _IMAGES, split)
    if key is None or not _is_stack(found[key]):
        raise GsdError(f"{path} holds no stack of images: {_shapes(found)}", hint="an array [N, H, W] or [N, H, W, C]")
    if split not in key:
        require_no_split(split, path)
    stack = found[key]
    named = _choose({name: array for name, array in found.items() if array.ndim <= 2}, _LABELS, split)
    labels, message, warnings = _read_labels(path, found, named, len(stack))
    unused = {name: array for name, array in found.items() if name not in (key, named)}
    messages = (f"arrays that are not read: {_shapes(unused)}",) if unused else ()

    def payloads(places: Sequence[int]) -> Iterator[Payload]:
        return (to_native(np.array(channels_last(np.asarray(stack[place])))) for place in places)

    facts = path.stat()
    return Source(
        path.stem,
        [f"{place:08d}" for place in range(len(stack))],
        payloads,
        identity((path.name, split, stack.shape, facts.st_size, facts.st_mtime_ns)),
        labels,
        labels_message=message,
        messages=messages,
        warnings=warnings,
    )


def _is_stack(array: np.ndarray) -> bool:
    return array.ndim in (3, 4) and array.dtype.kind in "buif" and len(array) > 0


def _shapes(found: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {array.shape}" for name, array in found.items())


def _load(path: Path) -> dict[str, np.ndarray]:
    if path.suffix.lower() == ".npy":
        return {"images": np.load(path, mmap_mode="r", allow_pickle=False)}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if (cause := refusal(member.filename, 0, 1)) or member.file_size > 200 * max(2**20, member.compress_size):
                raise ValueError(f"{member.filename}: {cause or 'a decompression bomb'}")
    with np.load(path, allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


def _choose(found: Mapping[str, np.ndarray], names: Sequence[str], split: str) -> str | None:
    return next((key for name in names if (key := name.format(split=split)) in found), None)


def _read_labels(
    path: Path, found: Mapping[str, np.ndarray], name: str | None, count: int
) -> tuple[Labels | None, str, tuple[str, ...]]:
    """The labels in the array of this name, a line on them, and warnings. Raises GsdError (exit 3): another number."""
    if name is None:
        return None, "no labels: no array is named labels" if len(found) > 1 else "no labels", ()
    array = found[name]
    if array.ndim == 0 or len(array) != count:
        raise GsdError(
            f"{path}: {name} {array.shape} is not one label for each of {plural(count, 'image')}",
            hint="save one label per image, or leave the array out",
        )
    labels = _labels(array)
    if labels is None:
        what = f"the array {name} {array.shape} of {array.dtype}"
        return None, "no labels", (f"{path}: {what} holds no classes or attributes: it is not used",)
    return labels, describe_labels(labels, f"the array {name}"), ()


def _labels(array: np.ndarray) -> Labels | None:
    """Labels of an array [N] or [N, 1] of whole numbers from 0 or of names, or [N, K] of 0 and 1; else None.

    Rows with a single 1 are classes (one-hot); other rows are attributes.
    """
    if array.ndim == 2 and array.shape[1] > 1:
        if array.dtype.kind not in "buif" or not np.isin(array, (0, 1)).all():
            return None
        if (array.sum(1) == 1).all():
            return Labels(array.argmax(1).tolist())
        return Labels([tuple(row) for row in array.astype(int).tolist()])
    values = array.reshape(-1)
    if values.dtype.kind in "US":
        return name_classes([_text(value) for value in values.tolist()])
    if values.dtype.kind not in "buif" or not (np.isfinite(values) & (values >= 0) & (values % 1 == 0)).all():
        return None
    return number_classes(values.astype(np.int64).tolist())


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else decode_text(value)[0]
