"""The class that `--class` names. Plain data."""

from __future__ import annotations

from collections.abc import Sequence

LISTED = 12
"""How many names a message lists."""


def find_class(given: str, names: Sequence[str], count: int) -> int | None:
    """The number of a class of `count`, by its name, its number or one of its synonyms; None where there is none.

    Names may hold synonyms after commas, as ImageNet's do. A synonym that several classes share stands for none.
    """
    if given in names:
        return names.index(given)
    if given.isascii() and given.isdigit() and int(given) < count:
        return int(given)
    found = [k for k, name in enumerate(names) if given in (word.strip() for word in name.split(","))]
    return found[0] if len(found) == 1 else None


def describe_classes(names: Sequence[str], count: int) -> str:
    """What `--class` takes: `0 to 999, or NAME, NAME, ...`."""
    rest = ", ..." if len(names) > LISTED else ""
    return f"0 to {count - 1}" + (f", or {', '.join(names[:LISTED])}{rest}" if names else "")
