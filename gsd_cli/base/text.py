"""Text for people: plurals, sizes, and names that were probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


def plural(n: int, noun: str) -> str:
    """The number with its noun: 1 image, 2 images, 1,000 images, 2 processes."""
    if n == 1:
        return f"{n:,} {noun}"
    return f"{n:,} {noun}{'es' if noun.endswith(('s', 'x', 'ch', 'sh')) else 's'}"


def format_bytes(count: float) -> str:
    """A number of bytes in its unit: 12 MB."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def did_you_mean(word: str, names: Iterable[str], shown: Mapping[str, str] | None = None) -> str:
    """` (did you mean NAME?)`, or nothing where no name is near; `shown` says how to write a name."""
    near = closest(word, names)
    return f" (did you mean {(shown or {}).get(near, near)}?)" if near else ""


def closest(word: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant; None where no name is near."""
    return next(iter(difflib.get_close_matches(word, list(names), n=1)), None)
