"""Words that follow numbers, and words that were meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def counted(n: int, noun: str) -> str:
    """1 picture, 2 pictures, 1,000 pictures."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def nearest(word: str, names: Iterable[str], shown: Mapping[str, str] | None = None) -> str:
    """` (did you mean NAME?)`, or nothing; `shown` says how a name is written."""
    close = closest(word, names)
    return f" (did you mean {(shown or {}).get(close, close)}?)" if close else ""


def closest(word: str, names: Iterable[str]) -> str | None:
    """The name that was most likely meant, if any is near."""
    import difflib

    return next(iter(difflib.get_close_matches(word, list(names), n=1)), None)
