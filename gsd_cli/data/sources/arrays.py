"""Images in one array: a .npy of [N, H, W] or [N, H, W, C], or an .npz with labels. Nothing pickled is read."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gsd_cli.base.errors import GsdError
from gsd_cli.data.arrays import channels_last, to_native
from gsd_cli.data.decode import Payload
from gsd_cli.data.labels import Labels, number_classes
from gsd_cli.data.sources.admission import refusal
from gsd_cli.data.sources.source import Source, identity

SUFFIXES = (".npy", ".npz")
_IMAGES = ("{split}_images", "x_{split}", "images", "arr_0", "x", "data")
_LABELS = ("{split}_labels", "y_{split}", "labels", "arr_1", "y", "label", "targets")
"""The names of arrays: MedMNIST's, Keras's, those of `gsd sample` and of NumPy."""


def open_stack(path: Path, split: str = "train") -> Source:
    """The images of an array, and their classes. Raises GsdError (exit 3): damaged, or no stack of images."""
    try:
        found = _load(path)
    # numpy reads a header with Python's parser, which raises errors of other types
    except Exception as error:
        raise GsdError(f"cannot read {path}: {error}", hint="an array of images that needs no pickle") from error
    images = _choose(found, _IMAGES, split)
    if images is None or images.ndim not in (3, 4) or images.dtype.kind not in "buif" or not len(images):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in found.items())
        raise GsdError(f"{path} holds no stack of images: {shapes}", hint="an array [N, H, W] or [N, H, W, C]")
    stack = images
    numbers = _choose(found, _LABELS, split)

    def payloads(places: Sequence[int]) -> Iterator[Payload]:
        return (to_native(np.array(channels_last(np.asarray(stack[place])))) for place in places)

    facts = path.stat()
    labels = _labels(numbers, len(stack))
    where = "the array of labels"
    return Source(
        path.stem,
        [f"{place:08d}" for place in range(len(stack))],
        payloads,
        identity((path.name, split, stack.shape, facts.st_size, facts.st_mtime_ns)),
        labels,
        labels_message="" if labels else f"no labels: {where} fits no classes" if numbers is not None else "no labels",
    )


def _load(path: Path) -> dict[str, np.ndarray]:
    if path.suffix.lower() == ".npy":
        return {"images": np.load(path, mmap_mode="r", allow_pickle=False)}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if (cause := refusal(member.filename, 0, 1)) or member.file_size > 200 * max(2**20, member.compress_size):
                raise ValueError(f"{member.filename}: {cause or 'a decompression bomb'}")
    with np.load(path, allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


def _choose(found: Mapping[str, np.ndarray], names: Sequence[str], split: str) -> Any:
    return next((found[key] for name in names if (key := name.format(split=split)) in found), None)


def _labels(numbers: Any, count: int) -> Labels | None:
    """Classes of whole numbers from 0, [N] or [N, 1]; None for anything else."""
    if numbers is None or numbers.size != count or numbers.dtype.kind not in "biu" or numbers.min() < 0:
        return None
    return number_classes([int(number) for number in numbers.reshape(count)])
