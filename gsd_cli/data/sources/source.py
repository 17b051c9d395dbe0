"""A source of images: their names, and how to read them in order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.data.decode import Payload
from gsd_cli.data.labels import Labels


@dataclass(frozen=True)
class Source:
    """Images by name, and how to read them in that order.

    payloads(places): yields what `decode` takes, for the names at these indices, which increase.
    in_order: reading the last image takes as long as reading all.
    identity: a digest that changes when the stored images do.
    refused: images that may not be read, each with the cause.
    warnings: what the user should know before trusting the result.
    labels_message: one line on how labels were read; messages: other decisions to tell the user.
    facts: entries for the data set's record.
    """

    name: str
    names: Sequence[str]
    payloads: Callable[[Sequence[int]], Iterator[Payload]]
    identity: str
    labels: Labels | None = None
    licence: str | None = None
    refused: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    labels_message: str = ""
    messages: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    in_order: bool = False


def identity(parts: Iterable[object]) -> str:
    """A digest of the facts that tell one state of a source from another."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def require_split(name: str, split: str, known: tuple[str, ...]) -> None:
    """Raise GsdError (exit 2) where a data set has no such split."""
    if split not in known:
        raise GsdError(f"{name} has no split {split!r}", hint=" or ".join(known), code=ExitCode.USAGE)
