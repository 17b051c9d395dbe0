"""Images in a folder and its subfolders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from gsd_cli.data.decode import Payload
from gsd_cli.data.sources.admission import Listing, hidden
from gsd_cli.data.sources.layout import read_layout
from gsd_cli.data.sources.source import Source, identity


def open_folder(root: Path, split: str = "train") -> Source:
    """All images under `root`, or of one of its splits, sorted by path. Raises GsdError (exit 3): no images."""
    listing = Listing(root)
    every: list[str] = []

    def found() -> Iterator[tuple[str, int, int]]:
        for name, size, changed in _walk(root, "", listing):
            every.append(name)
            yield name, size, changed

    state = identity(found())
    names = listing.select(every)
    listing.require(names)

    def companion(name: str) -> bytes | None:
        return (root / name).read_bytes() if (root / name).is_file() else None

    layout = read_layout(names, split, root, companion)
    kept = layout.names

    def payloads(places: Sequence[int]) -> Iterator[Payload]:
        return (root / kept[place] for place in places)

    return Source(
        root.resolve().name,
        kept,
        payloads,
        state if len(kept) == len(names) else identity((state, split)),
        layout.labels,
        refused=tuple(listing.refused),
        warnings=(*listing.warnings(), *layout.warnings),
        labels_message=layout.labels_message + ("" if layout.labels else listing.hint_at_tables(inside=False)),
        messages=(*listing.messages(), *layout.messages),
    )


def _head(path: str) -> bytes:
    if not os.path.isfile(path):  # reading a pipe would block
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(16)
    except OSError:
        return b""


def _walk(root: Path, inside: str, listing: Listing) -> Iterator[tuple[str, int, int]]:
    """(name, bytes, mtime) of the images under root/inside, in order. Links to folders may loop: not followed."""
    try:
        entries = sorted(os.scandir(root / inside), key=lambda entry: entry.name)
    except OSError as error:
        listing.refused.append((inside or str(root), f"cannot be listed: {error.strerror}"))
        return
    for entry in entries:
        name = f"{inside}/{entry.name}" if inside else entry.name
        if hidden((entry.name,)):
            continue
        if os.path.isdir(entry.path):  # unlike entry.is_dir, does not raise for a link to itself
            if entry.is_symlink():
                listing.links.append(name)
            else:
                yield from _walk(root, name, listing)
        elif listing.is_image(name, partial(_head, entry.path)):
            if os.path.isfile(entry.path):
                facts = entry.stat()
                yield name, facts.st_size, facts.st_mtime_ns
            else:
                listing.refused.append((name, "a link to nothing" if entry.is_symlink() else "not a file"))
