"""Some of the images of a source: of every class its share, and the same ones each time."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from gsd_cli.data.decode import Payload
from gsd_cli.data.labels import Labels, Value
from gsd_cli.data.sources.source import Source, identity


def choose_places(names: Sequence[str], labels: Labels | None, count: int) -> list[int]:
    """The indices of `count` names, in order: each class in proportion, and in a class the smallest hashes of names.

    A name is chosen or not whatever the order of the names. Of n images of a class, the k-th is due at the share
    (k + 1/2) / n of the whole: those due first are taken (the method of Sainte-Lague).
    """
    drawn = sorted(range(len(names)), key=lambda i: (_hash(names[i]), i))
    classes: list[Value | None] = [None] * len(names)
    if labels is not None and not any(isinstance(value, tuple) for value in labels.values):
        classes = list(labels.values)
    sizes, taken = Counter(classes), Counter[Value | None]()
    due: list[tuple[float, int, int]] = []
    for order, place in enumerate(drawn):
        kind = classes[place]
        due.append(((taken[kind] + 0.5) / sizes[kind], order, place))
        taken[kind] += 1
    return sorted(place for _, _, place in sorted(due)[:count])


def take(source: Source, places: Sequence[int]) -> Source:
    """The source with the images at these indices, which increase, alone."""

    def payloads(chosen: Sequence[int]) -> Iterator[Payload]:
        return source.payloads([places[i] for i in chosen])

    return replace(
        source,
        names=[source.names[place] for place in places],
        payloads=payloads,
        identity=identity((source.identity, *places)),
        labels=take_labels(source.labels, places),
    )


def take_labels(labels: Labels | None, places: Sequence[int]) -> Labels | None:
    """The labels of the images at these indices; classes keep their numbers."""
    return labels and replace(labels, values=[labels.values[place] for place in places])


def spread(count: int, most: int) -> list[int]:
    """At most `most` indices below `count`, evenly spaced."""
    return list(range(count)) if count <= most else [i * count // most for i in range(most)]


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8]
