"""Words that follow numbers, and words that were meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def counted(n: int, noun: str) -> str:
    """1 picture, 2 pictures, 1,000 pictures."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def nearest(word: str, names: Iterable[str], shown: Mapping[str, str] | None = None) -> str:
    """` (did you mean NAME?)`, or nothing; `shown` says how a name is written."""
    import difflib

    close = difflib.get_close_matches(word, list(names), n=1)
    return f" (did you mean {(shown or {}).get(close[0], close[0])}?)" if close else ""
