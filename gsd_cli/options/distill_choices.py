"""Values of gsd distill's options that choose a number and whom it is for: K, NETWORK:K or off."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

LARGEST_GUIDANCE, LARGEST_RANK = 30, 1024
OFF = "off"


def split_choice(value: str, off: float) -> tuple[float, str]:
    """The number of a valid choice, `off` for off, and the network that it names alone, empty for all."""
    of, _, number = value.rpartition(":")
    return (off, "") if value == OFF else (float(number), of)


def _normalize_guidance(value: str) -> str:
    """--guidance as it is stored: off, K or teacher:K, K without trailing zeros; a factor of 1 is off."""
    if value == OFF:
        return value
    of, _, number = value.rpartition(":")
    try:
        scale = float(number)
    except ValueError:
        scale = 0.0
    if of not in ("", "teacher") or not 1 <= scale <= LARGEST_GUIDANCE:
        raise ValueError(f"{value!r} is not K, teacher:K or off, with K from 1 to {LARGEST_GUIDANCE}")
    return OFF if scale == 1 else f"{of}:{scale:g}" if of else f"{scale:g}"


def _normalize_adapters(value: str) -> str:
    """--adapters as it is stored: off, R or fake:R."""
    if value == OFF:
        return value
    of, _, number = value.rpartition(":")
    if of not in ("", "fake") or not (number.isdecimal() and 1 <= int(number) <= LARGEST_RANK):
        raise ValueError(f"{value!r} is not R, fake:R or off, with a rank R from 1 to {LARGEST_RANK}")
    return f"{of}:{int(number)}" if of else f"{int(number)}"


Guidance = Annotated[str, AfterValidator(_normalize_guidance)]
Adapters = Annotated[str, AfterValidator(_normalize_adapters)]
