"""A data set that `gsd prepare --shards` wrote, as a source: by its index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from gsd_cli.base.errors import GsdError
from gsd_cli.data.dataset_files import open_store
from gsd_cli.data.decode import Payload
from gsd_cli.data.labels import edm_labels
from gsd_cli.data.sources.layout import recorded_names
from gsd_cli.data.sources.source import Source, identity


def open_shards(index: Path) -> Source:
    """The images of the shards, with their labels and the names of these. Raises GsdError (exit 3): damaged."""
    try:
        store = open_store(index)
        names = [f"img{place:08d}" for place in range(store.count)]
        values = store.labels()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise GsdError(f"{index} is no index of shards: {error!r}", hint="gsd prepare --shards writes one") from error
    listed = None if values is None else dict(zip(names, map(_listed, values), strict=True))
    labels = edm_labels(listed, names, index, *recorded_names(store.record)) if listed else None

    def payloads(places: Sequence[int]) -> Iterator[Payload]:
        return (store.read(place) for place in places)

    facts = index.stat()
    state = identity((index.read_bytes(), facts.st_mtime_ns))
    return Source(index.stem, names, payloads, state, labels, licence=store.record.get("licence"))


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
