"""One look at the images of a source decides how all of them are stored: grey or colour, and the range of values."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.base.text import plural
from gsd_cli.data.decode import Payload, open_stored
from gsd_cli.data.raster import ANY, Range, Ranges, number_kind
from gsd_cli.data.remarks import KINDS
from gsd_cli.data.value_range import NARROW, Seen, choose_range

MOST = 2000
"""Images that are looked at, evenly spread over the source: their headers, and the pixels of other than 8 bits."""
_FLAT = 2 / 255
"""An image that fills less of the range uses nearly one of the greys."""


@dataclass(frozen=True)
class Survey:
    """What to store: `channels` per image, pixels scaled by `ranges`.

    messages: the decisions that a user may doubt. warnings: what the range does to some images.
    """

    channels: int
    ranges: Ranges
    messages: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def survey(
    payloads: Iterable[Payload],
    names: Sequence[str] = (),
    *,
    size: int = 0,
    grey: bool | None = None,
    value_range: Range | None = None,
    remedy: str = "; --value-range changes it",
    check: Callable[[], None] = lambda: None,
) -> Survey:
    """Decide from the images, of which unreadable ones are passed over: they are reported when their turn comes.

    names: of the images, for messages; size: the side to store; grey, value_range: the user's choice; remedy: ends the
    line on a range that the values show; check: called before each image, may raise. Raises GsdError (exit 2) for
    --grey and images of other than one or three channels.
    """
    kinds: Counter[int] = Counter()
    seen: dict[str, Seen] = {}
    frames, small, unreadable = 0, 0, 0
    for place, payload in enumerate(payloads):
        check()
        try:
            with warnings.catch_warnings(action="ignore"):  # Pillow warns of odd metadata
                stored = open_stored(payload, header_only=True)
                raster = open_stored(payload).raster if stored.wide else None
            if raster is not None and raster.pixels.dtype != np.uint8:
                kind = number_kind(raster.pixels.dtype)
                seen.setdefault(kind, Seen()).add(raster, names[place] if names else "")
        except Exception:
            unreadable += 1
            continue
        kinds[stored.channels] += 1
        frames += stored.frames > 1
        small += 0 < stored.side < size
    seen = {kind: found for kind, found in seen.items() if found.images}
    channels, said = _choose_channels(kinds, grey, unreadable)
    ranges, lines, warned = _choose_ranges(seen, value_range, remedy)
    return Survey(channels, ranges, (*said, *lines, *_remarks(frames, small, kinds.total(), size)), tuple(warned))


def _remarks(frames: int, small: int, total: int, size: int) -> list[str]:
    """What is read in part, and what is enlarged."""
    found = [f"{plural(frames, 'image')} with several pages or frames: the first is read"] if frames else []
    return found + ([f"{small} of {plural(total, 'image')} are smaller than {size} pixels: enlarged"] if small else [])


def _choose_ranges(seen: Mapping[str, Seen], given: Range | None, remedy: str) -> tuple[Ranges, list[str], list[str]]:
    """The range of each kind of numbers, one line on each, and warnings."""
    if given is not None and not seen:
        return {ANY: given}, ["--value-range changes nothing: all images are of 8 bits"], []
    chosen = {kind: (given, "given") if given else choose_range(kind, found) for kind, found in seen.items()}
    lines = [_describe(kind, seen[kind], limits, origin, remedy) for kind, (limits, origin) in chosen.items()]
    warned = [_warn_of_narrow(seen[kind], limits, remedy) for kind, (limits, _) in chosen.items()]
    ranges = {ANY: given} if given else {kind: limits for kind, (limits, _) in chosen.items()}
    return ranges, lines, [text for text in warned if text]


def _warn_of_narrow(seen: Seen, limits: Range, remedy: str) -> str:
    """A line where images fill little of the range: how many, and which image has the largest value."""
    shares = seen.shares_used(limits)
    narrow, flat = sum(share < NARROW for share in shares), sum(share < _FLAT for share in shares)
    if not narrow:
        return ""
    if seen.images == 1:
        return f"{seen.highest or 'it'} uses {'nearly one' if flat else 'less than an eighth'} of the greys"
    use = "uses" if narrow == 1 else "use"
    text = f"{narrow:,} of {plural(seen.images, 'image')} {use} less than an eighth of the greys"
    text += f" ({flat:,} nearly one)" if flat else ""
    text += f"; the highest value, {seen.high:g}, is in {seen.highest}" if seen.highest else ""
    return text + ("; --value-range=LOW:HIGH sets another range" if remedy else "")


def _choose_channels(kinds: Counter[int], grey: bool | None, unreadable: int) -> tuple[int, list[str]]:
    """The channels to store, and one line where images differ."""
    total = kinds.total() + unreadable
    others = {n: count for n, count in kinds.items() if n not in (1, 3)}
    if others:
        channels = max(kinds, key=lambda n: (kinds[n], n))
        if grey is not None:
            raise GsdError(
                f"images of {channels} channels have no grey or RGB form", hint="leave out --grey", code=ExitCode.USAGE
            )
        rest = ", ".join(f"{count} have {n}" for n, count in sorted(kinds.items()) if n != channels)
        line = f"channels: {channels} in {kinds[channels]} of {plural(total, 'image')}"
        line += f"; {rest}, which do not fit" if rest else ""
        return channels, [line + (f"; {unreadable} cannot be read" if unreadable else "")]
    if grey is not None:
        return (1 if grey else 3), []
    if kinds[1] and kinds[3]:
        line = f"colour: {kinds[3]} of {total} images have colours, {kinds[1]} are grey"
        line += f", {unreadable} cannot be read" if unreadable else ""
        return 3, [f"{line} (--grey stores one channel)"]
    return (1 if kinds[1] else 3), []


def _describe(kind: str, seen: Seen, limits: Range, origin: str, remedy: str) -> str:
    found = seen.found
    beyond = [f"{seen.low:g}"] if seen.low < min(found[0], limits[0]) else []
    beyond += [f"{seen.high:g}"] if seen.high > max(found[1], limits[1]) else []
    few = f" without a few pixels or images ({' and '.join(beyond)})" if beyond else ""
    why = {
        "declared": "as the files declare",
        "given": "as --value-range says",
        "shown": f"as {plural(seen.images, 'image')} show{'s' if seen.images == 1 else ''}{few}{remedy}",
    }[origin]
    return f"values: {KINDS.get(kind, kind)} from {limits[0]:g} (black) to {limits[1]:g} (white), {why}"
