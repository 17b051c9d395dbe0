"""From a source to a prepared data set: every image decoded once, every bad one named, on all cores.

Work is kept as it is done, chunk by chunk, in a hidden folder beside the target; the target is then written from
the chunks in one pass, so an interrupted run, or another number of workers, gives the same bytes.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from gsd_cli.base.errors import GsdError
from gsd_cli.base.signals import StopRequest
from gsd_cli.base.storage import storage_errors
from gsd_cli.data.chunks import Chunk, grouped, make_chunk, read_chunk
from gsd_cli.data.dataset_writers import Picture, write_shards, write_zip
from gsd_cli.data.decode import decode
from gsd_cli.data.labels import Labels
from gsd_cli.data.sources.source import Source
from gsd_cli.data.workers import Task, run_in_order

_FORMAT = 1
"""Of the chunks: raised when pixels made from the same picture change."""


@dataclass(frozen=True)
class Recipe:
    """How pictures become the data set: `channels` 1 or 3; `limit` pictures at most; `shards` tars, or one zip.

    `asked` is what the user asked for, kept in the record.
    """

    size: int
    channels: int
    limit: int | None = None
    shards: int | None = None
    asked: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """What was written (the data set's own record), and what could not be: (name, cause)."""

    record: dict[str, Any]
    bad: list[tuple[str, str]]


class BadPictures(GsdError):
    """Pictures that cannot be used; `problems` names each with its cause."""

    def __init__(self, bad: list[tuple[str, str]]):
        super().__init__(f"{len(bad)} unreadable", hint="--skip-bad leaves them out")
        self.problems = [f"{name}: {cause}" for name, cause in bad]


@dataclass
class _Tally:
    """What accumulates while chunks pass."""

    count: int = 0
    total: np.ndarray | int = 0
    squares: np.ndarray | int = 0
    bad: list[tuple[int, str]] = field(default_factory=list)

    def add(self, chunk: Chunk) -> None:
        # exact: integers of any size, whatever the order of the chunks
        self.count += len(chunk.places)
        self.total = self.total + np.array(chunk.total, object)
        self.squares = self.squares + np.array(chunk.squares, object)
        self.bad += chunk.bad


def prepare(
    source: Source,
    target: Path,
    recipe: Recipe,
    labels: Labels | None,
    skip_bad: bool,
    workers: int,
    stop: StopRequest,
    on_done: Callable[[int], None],
) -> Prepared:
    """Write `target`: a zip, or the index of shards. `labels` has one value per name of the source.

    Raises BadPictures (exit 3) naming every one unless `skip_bad`, and Stopped; nothing is left under the final name
    then, and the same call goes on from what was done.
    """
    total = min(len(source.names), recipe.limit or len(source.names))
    work = work_folder(target, source, recipe)
    with storage_errors(work):
        work.mkdir(parents=True, exist_ok=True)
    tally = _Tally()
    record: dict[str, Any] = {}

    def pictures() -> Iterator[Picture]:
        for chunk in _chunks(source, work, recipe, total, workers, stop):
            for place, png in chunk.images():
                yield place * (recipe.shards or 1) // total, png, labels.values[place] if labels else None
            tally.add(chunk)
            on_done(chunk.start + chunk.count)
        _judge(source, tally, skip_bad)

    def finish() -> dict[str, Any]:
        record.update(_record(source, recipe, labels, tally))
        return record

    if recipe.shards:
        write_shards(target, work, pictures(), finish)
    else:
        write_zip(target, work, pictures(), finish)
    for leftover in target.parent.glob(f"{_prefix(target)}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    return Prepared(record, _bad(source, tally))


def work_folder(target: Path, source: Source, recipe: Recipe) -> Path:
    """Where the chunks of this very work are kept: named by what they depend on."""
    facts = (_FORMAT, PIL.__version__, source.identity, recipe.size, recipe.channels, recipe.limit)
    return target.parent / f"{_prefix(target)}{hashlib.sha256(repr(facts).encode()).hexdigest()[:12]}"


def _prefix(target: Path) -> str:
    return f".{target.name}.part-"


def channels_of(source: Source) -> int:
    """1 when the first readable picture is grey, else 3."""
    for payload in source.payloads(0):
        try:
            return 1 if decode(payload).mode == "L" else 3
        except Exception:  # it is named when its turn comes
            continue
    return 3


def _chunks(source: Source, work: Path, recipe: Recipe, total: int, workers: int, stop: StopRequest) -> Iterator[Chunk]:
    """All chunks in order: what a run before this one left, then the rest as it is made."""
    start = 0
    while start < total and (done := read_chunk(work, start)) is not None:
        stop.check()
        yield done
        start += done.count
    payloads = itertools.islice(source.payloads(start), total - start)

    def tasks() -> Iterator[tuple[int, Task | None]]:
        for first, group in grouped(payloads, start, recipe.size**2 * recipe.channels):
            task = partial(make_chunk, work, first, group, recipe.size, recipe.channels)
            yield first, None if read_chunk(work, first) else task

    for first in run_in_order(tasks(), workers, stop):
        chunk = read_chunk(work, first)
        if chunk is None:
            raise GsdError(f"{work} was changed while gsd was working in it", hint="run the same command again")
        yield chunk


def _judge(source: Source, tally: _Tally, skip_bad: bool) -> None:
    bad = _bad(source, tally)
    if bad and not skip_bad:
        raise BadPictures(bad)
    if tally.count == 0:
        raise GsdError(f"no readable image in {source.name}")


def _bad(source: Source, tally: _Tally) -> list[tuple[str, str]]:
    return [*source.refused, *((source.names[place], cause) for place, cause in tally.bad)]


def _record(source: Source, recipe: Recipe, labels: Labels | None, tally: _Tally) -> dict[str, Any]:
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
        # of the pixels in [-1, 1], per channel
        "mean": (mean / 127.5 - 1).tolist(),
        "variance": (variance / 127.5**2).tolist(),
    }
