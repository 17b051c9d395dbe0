"""Pictures by name, and how to get at them: what every source of a data set comes down to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from gsd_cli.data.decode import Payload
from gsd_cli.data.labels import Labels


@dataclass(frozen=True)
class Source:
    """Pictures by name, and how to get at them in that order.

    payloads(start) yields what `decode` takes for names[start:]. `identity` changes when the stored pictures do.
    `refused` are images that may not be read, with the cause; `notes` what the user should know before trusting
    the result, `decided` how labels were read, `said` what else was decided; `facts` what the data set's record keeps.
    """

    name: str
    names: Sequence[str]
    payloads: Callable[[int], Iterator[Payload]]
    identity: str
    labels: Labels | None = None
    licence: str | None = None
    refused: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    decided: str = ""
    said: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


def identity(parts: Iterable[object]) -> str:
    """A digest of what tells one state of a source from another."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr(part).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
