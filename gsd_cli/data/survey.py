"""One look at the images of a source decides how all of them are stored: grey or colour, and the range of values."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.base.text import plural
from gsd_cli.data.decode import Payload, open_stored
from gsd_cli.data.raster import ANY, Range, Ranges, Seen, choose_range, number_kind

MOST = 2000
"""Images whose header is read, evenly spread over the source."""
MOST_RASTERS = 200
"""Of these, the images of other than 8 bits whose pixels are read."""


@dataclass(frozen=True)
class Survey:
    """What to store: `channels` per image, pixels scaled by `ranges`; messages: the decisions that a user may doubt."""

    channels: int
    ranges: Ranges
    messages: tuple[str, ...] = ()


def survey(
    payloads: Iterable[Payload],
    count: int,
    *,
    size: int = 0,
    grey: bool | None = None,
    value_range: Range | None = None,
    remedy: str = "; --value-range changes it",
    check: Callable[[], None] = lambda: None,
) -> Survey:
    """Decide from `count` images, of which unreadable ones are passed over: they are reported when their turn comes.

    size: the side to store; grey, value_range: the user's choice; remedy: ends the line on a range that the values
    show; check: called before each image, may raise. Raises GsdError (exit 2) for --grey and images of other than one
    or three channels.
    """
    kinds: Counter[int] = Counter()
    seen: dict[str, Seen] = {}
    frames, small, wide, step = 0, 0, 0, max(1, -(-count // MOST_RASTERS))
    for payload in payloads:
        check()
        try:
            with warnings.catch_warnings(action="ignore"):  # Pillow warns of odd metadata
                stored = open_stored(payload, header_only=True)
                wide += stored.wide
                raster = open_stored(payload).raster if stored.wide and (wide - 1) % step == 0 else None
        except Exception:
            continue
        kinds[stored.channels] += 1
        frames += stored.frames > 1
        small += 0 < stored.side < size
        if raster is not None and raster.pixels.dtype != np.uint8:
            seen.setdefault(number_kind(raster.pixels.dtype), Seen()).add(raster)
    channels, said = _choose_channels(kinds, grey)
    ranges, lines = _choose_ranges(seen, value_range, remedy)
    return Survey(channels, ranges, (*said, *lines, *_remarks(frames, small, kinds.total(), size)))


def _remarks(frames: int, small: int, total: int, size: int) -> list[str]:
    """What is read in part, and what is enlarged."""
    found = [f"{plural(frames, 'image')} with several pages or frames: the first is read"] if frames else []
    return found + ([f"{small} of {plural(total, 'image')} are smaller than {size} pixels: enlarged"] if small else [])


def _choose_ranges(seen: Mapping[str, Seen], given: Range | None, remedy: str) -> tuple[Ranges, list[str]]:
    """The range of each kind of numbers, and one line on each."""
    if given is not None:
        if not seen:
            return {ANY: given}, ["--value-range changes nothing: all images are of 8 bits"]
        return {ANY: given}, [_describe(kind, seen[kind], given, "given", remedy) for kind in seen]
    chosen = {kind: choose_range(kind, seen[kind]) for kind in seen}
    lines = [_describe(kind, seen[kind], limits, origin, remedy) for kind, (limits, origin) in chosen.items()]
    return {kind: limits for kind, (limits, _) in chosen.items()}, lines


def _choose_channels(kinds: Counter[int], grey: bool | None) -> tuple[int, list[str]]:
    """The channels to store, and one line where images differ."""
    total = kinds.total()
    others = {n: count for n, count in kinds.items() if n not in (1, 3)}
    if others:
        channels = max(kinds, key=lambda n: (kinds[n], n))
        if grey is not None:
            raise GsdError(
                f"images of {channels} channels have no grey or RGB form", hint="leave out --grey", code=ExitCode.USAGE
            )
        rest = ", ".join(f"{count} have {n}" for n, count in sorted(kinds.items()) if n != channels)
        line = f"channels: {channels} in {kinds[channels]} of {plural(total, 'image')}"
        return channels, [f"{line}; {rest}, which do not fit" if rest else line]
    if grey is not None:
        return (1 if grey else 3), []
    if kinds[1] and kinds[3]:
        line = f"colour: {kinds[3]} of {total} images have colours, {kinds[1]} are grey (--grey stores one channel)"
        return 3, [line]
    return (1 if kinds[1] else 3), []


def _describe(kind: str, seen: Seen, limits: Range, origin: str, remedy: str) -> str:
    why = {
        "declared": "as the files declare",
        "given": "as --value-range says",
        "shown": f"as {plural(seen.images, 'image')} show{'s' if seen.images == 1 else ''}{remedy}",
    }[origin]
    return f"values: {_KINDS.get(kind, kind)} from {limits[0]:g} (black) to {limits[1]:g} (white), {why}"


_KINDS = {
    "float": "floats", "uint16": "16-bit numbers", "uint32": "32-bit numbers", "int8": "signed 8-bit numbers",
    "int16": "signed 16-bit numbers", "int32": "signed 32-bit numbers",
}  # fmt: skip
