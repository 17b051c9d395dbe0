"""Text for people: plurals, sizes, and names that were probably meant."""

from __future__ import annotations

import difflib
import math
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


def format_number(value: float, digits: int = 3) -> str:
    """A number with this many significant digits, without an exponent: 0.00753, 7.53, 75.3, 12,900.

    Trailing zeros are left out; whole digits never are. Numbers below 1e-6 keep their exponent.
    """
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if abs(value) < 1e-6:
        return f"{value:.{digits}g}"
    rounded = float(f"{value:.{digits}g}")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    text = f"{rounded:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_seconds(seconds: float, digits: int = 3) -> str:
    """A time in the unit that people use: 7.5 ms, 1.29 s, 12 min, 13 hours."""
    if seconds < 0.9995:
        return f"{format_number(1000 * seconds, digits)} ms"
    if seconds < 120:
        return f"{format_number(seconds, digits)} s"
    return format_duration(seconds)


def format_duration(seconds: float) -> str:
    """A time to wait, roughly: 40 s, 12 min, 2.5 hours, 13 hours."""
    minutes = seconds / 60
    if minutes < 1.5:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 90 else f"{format_number(minutes / 60, 2)} hours"


def did_you_mean(word: str, names: Iterable[str], shown: Mapping[str, str] | None = None) -> str:
    """` (did you mean NAME?)`, or nothing where no name is near; `shown` says how to write a name."""
    near = closest(word, names)
    return f" (did you mean {(shown or {}).get(near, near)}?)" if near else ""


def closest(word: str, names: Iterable[str]) -> str | None:
    """The name that was probably meant; None where no name is near."""
    return next(iter(difflib.get_close_matches(word, list(names), n=1)), None)
