"""From a source to a prepared zip: every image decoded once, every bad one named."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsd_cli.data.archive import ArchiveWriter
from gsd_cli.data.pictures import fit_picture
from gsd_cli.data.sources import Source
from gsd_cli.errors import GsdError
from gsd_cli.paths import atomic_file


@dataclass(frozen=True)
class Prepared:
    """What was written (the zip's own record), and what could not be: (name, cause)."""

    record: dict[str, Any]
    bad: list[tuple[str, str]]


def prepare(
    source: Source,
    target: Path,
    size: int,
    grey: bool | None,
    limit: int | None,
    skip_bad: bool,
    on_image: Callable[[int], None],
) -> Prepared:
    """Write `target`; one channel when `grey`, three when not, as the first picture when None.

    Raises GsdError (exit 3) naming every unreadable picture, unless `skip_bad`; nothing is left
    under the final name then.
    """
    bad: list[tuple[str, str]] = []
    with atomic_file(target) as temporary:
        writer = ArchiveWriter(temporary)
        channels = None if grey is None else (1 if grey else 3)
        for done, record in enumerate(itertools.islice(source.records(), limit), 1):
            try:
                picture = record.open()
            except Exception as error:  # damaged pictures raise nearly anything
                bad.append((record.name, _cause(error)))
            else:
                channels = channels or (1 if picture.mode == "L" else 3)
                writer.add(fit_picture(picture, size, channels), record.label)
            on_image(done)
        _judge(source, bad, writer.count, skip_bad)
        facts = {"source": source.name, "classes": source.classes, "licence": source.licence}
        written = writer.close({**facts, "resize": f"centre crop, Pillow bicubic to {size} px"})
    return Prepared(written, bad)


def _judge(source: Source, bad: list[tuple[str, str]], good: int, skip_bad: bool) -> None:
    if bad and not skip_bad:
        names = "; ".join(f"{name}: {cause}" for name, cause in bad)
        raise GsdError(f"{len(bad)} unreadable: {names}", hint="--skip-bad leaves them out")
    if good == 0:
        raise GsdError(f"no readable image in {source.name}")


def _cause(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
