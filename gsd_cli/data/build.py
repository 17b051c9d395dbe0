"""Building a prepared data set from a source, on all cores: every image is decoded once, every bad one is named.

Finished work is stored chunk by chunk in a hidden folder next to the target. The target is then written from the
chunks in one pass, so that an interrupted run and any number of workers give the same bytes.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from gsd_cli.base.errors import GsdError
from gsd_cli.base.signals import StopRequest
from gsd_cli.base.storage import storage_errors
from gsd_cli.data.chunks import Chunk, group_payloads, make_chunk, read_chunk
from gsd_cli.data.dataset_writers import Entry, write_shards, write_zip
from gsd_cli.data.labels import Labels
from gsd_cli.data.raster import Ranges
from gsd_cli.data.remarks import Remarks, describe_remarks, merge_remarks, unpack_remarks
from gsd_cli.data.sources.source import Source
from gsd_cli.data.workers import Task, run_in_order

_FORMAT = 3
"""The version of the chunks: raised when the same image gives other pixels or remarks."""


@dataclass(frozen=True)
class Preparation:
    """How images become the data set: with how many `channels`, scaled by which `ranges`, as `shards` tars or one zip.

    asked: the user's options, for the record.
    """

    size: int
    channels: int
    ranges: Ranges = field(default_factory=dict)
    shards: int | None = None
    asked: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """The record of the data set that was written, and the images that were left out: (name, cause).

    made_grey: how many images had colours, in a set of grey ones. remarks: lines on values that do not fit the range.
    """

    record: dict[str, Any]
    bad: list[tuple[str, str]]
    made_grey: int = 0
    remarks: tuple[str, ...] = ()


class UnreadableImages(GsdError):
    """Images that cannot be read; `problems` names each with its cause."""

    def __init__(self, bad: list[tuple[str, str]]):
        super().__init__(f"{len(bad)} unreadable", hint="--skip-bad leaves them out")
        self.problems = [f"{name}: {cause}" for name, cause in bad]


@dataclass
class _Tally:
    """Counts and sums over the chunks so far."""

    count: int = 0
    total: np.ndarray | int = 0
    squares: np.ndarray | int = 0
    bad: list[tuple[int, str]] = field(default_factory=list)
    made_grey: int = 0
    remarks: Remarks = field(default_factory=dict)

    def add(self, chunk: Chunk) -> None:
        # integers of any size: exact, whatever the order of the chunks
        self.count += len(chunk.places)
        self.total = self.total + np.array(chunk.total, object)
        self.squares = self.squares + np.array(chunk.squares, object)
        self.bad += chunk.bad
        self.made_grey += chunk.made_grey
        merge_remarks(self.remarks, unpack_remarks(chunk.remarks))


def prepare(
    source: Source,
    target: Path,
    recipe: Preparation,
    labels: Labels | None,
    skip_bad: bool,
    workers: int,
    stop: StopRequest,
    on_done: Callable[[int], None],
    captions: Sequence[str] | None = None,
) -> Prepared:
    """Write `target`: a zip, or the index of shards. `labels` and `captions` have one value per name of
    the source.

    Raises UnreadableImages (exit 3) unless `skip_bad`, and Stopped. The target then stays as it was, and the same call
    resumes from the chunks that were finished.
    """
    total = len(source.names)
    work = work_folder(target, source, recipe)
    with storage_errors(work):
        work.mkdir(parents=True, exist_ok=True)
    tally = _Tally()
    record: dict[str, Any] = {}

    def entries() -> Iterator[Entry]:
        for chunk in _chunks(source, work, recipe, total, workers, stop):
            for place, member in chunk.images():
                label = labels.values[place] if labels else None
                yield place * (recipe.shards or 1) // total, member, label, captions[place] if captions else None
            tally.add(chunk)
            on_done(chunk.start + chunk.count)
        _require_images(source, tally, skip_bad)

    def finish() -> dict[str, Any]:
        record.update(_record(source, recipe, labels, tally))
        return record

    if recipe.shards:
        write_shards(target, work, entries(), finish)
    else:
        write_zip(target, work, entries(), finish)
    for leftover in target.parent.glob(f"{_prefix(target)}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    remarks = describe_remarks(tally.remarks, recipe.ranges, tally.count, lambda place: source.names[place])
    return Prepared(record, _left_out(source, tally), tally.made_grey, tuple(remarks))


def work_folder(target: Path, source: Source, recipe: Preparation) -> Path:
    """The folder of the chunks, named after everything that they depend on."""
    facts = (_FORMAT, PIL.__version__, source.identity, recipe.size, recipe.channels, sorted(recipe.ranges.items()))
    return target.parent / f"{_prefix(target)}{hashlib.sha256(repr(facts).encode()).hexdigest()[:12]}"


def _prefix(target: Path) -> str:
    return f".{target.name}.part-"


def _chunks(
    source: Source, work: Path, recipe: Preparation, total: int, workers: int, stop: StopRequest
) -> Iterator[Chunk]:
    """All chunks in order: those that an earlier run left, then the rest as they are finished."""
    start = 0
    while start < total and (done := read_chunk(work, start)) is not None:
        stop.check()
        yield done
        start += done.count
    payloads = source.payloads(range(start, total))

    def tasks() -> Iterator[tuple[int, Task | None]]:
        for first, group in group_payloads(payloads, start, recipe.size**2 * recipe.channels):
            task = partial(make_chunk, work, first, group, recipe.size, recipe.channels, recipe.ranges)
            yield first, None if read_chunk(work, first) else task

    for first in run_in_order(tasks(), workers, stop):
        chunk = read_chunk(work, first)
        if chunk is None:
            raise GsdError(f"{work} was changed while gsd was working in it", hint="run the same command again")
        yield chunk


def _require_images(source: Source, tally: _Tally, skip_bad: bool) -> None:
    bad = _left_out(source, tally)
    if bad and not skip_bad:
        raise UnreadableImages(bad)
    if tally.count == 0:
        raise GsdError(f"no readable image in {source.name}")


def _left_out(source: Source, tally: _Tally) -> list[tuple[str, str]]:
    return [*source.refused, *((source.names[place], cause) for place, cause in tally.bad)]


def _record(source: Source, recipe: Preparation, labels: Labels | None, tally: _Tally) -> dict[str, Any]:
    pixels = tally.count * recipe.size**2
    mean = np.asarray(tally.total / pixels, float)
    variance = np.asarray((tally.squares * pixels - tally.total**2) / pixels**2, float)
    return {
        "source": source.name,
        "classes": labels.classes if labels else (),
        "attributes": labels.attributes if labels else (),
        "licence": source.licence,
        **source.facts,
        "asked": recipe.asked,
        "left_out": len(source.refused) + len(tally.bad),
        "resize": f"centre crop, Pillow bicubic to {recipe.size} px",
        "pillow": PIL.__version__,
        "images": tally.count,
        "size": recipe.size,
        "channels": recipe.channels,
        **({"values": dict(recipe.ranges)} if recipe.ranges else {}),
        # of the pixels in [-1, 1], per channel
        "mean": (mean / 127.5 - 1).tolist(),
        "variance": (variance / 127.5**2).tolist(),
    }
