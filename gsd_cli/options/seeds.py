"""Lists of seeds, written as `0-63,100`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer

MOST_SEEDS = 10_000_000


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parse comma-separated whole numbers and rising ranges: `0-3,8` becomes (0, 1, 2, 3, 8). Each seed counts once.

    Raises ValueError, which names the bad part, and for more than 10,000,000 seeds.
    """
    seeds: list[range] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        low, high = first, last if dash else first
        if not (low.isascii() and high.isascii() and low.isdigit() and high.isdigit()):
            raise ValueError(f"{part!r} is not a seed or a range; write for example 0-63,100")
        span = range(int(low), int(high) + 1)
        if not span:
            raise ValueError(f"the range {part.strip()!r} runs backwards")
        if span[-1] >= 2**63:
            raise ValueError(f"{part.strip()!r} is too large")
        seeds.append(span)
        # len() overflows above 2^63
        if sum(span.stop - span.start for span in seeds) > MOST_SEEDS:
            raise ValueError(f"more than {MOST_SEEDS:,} seeds")
    return tuple(dict.fromkeys(seed for span in seeds for seed in span))


def _parse(value: Any) -> Any:
    return parse_seeds(value) if isinstance(value, str) else value


def format_seeds(seeds: tuple[int, ...]) -> str:
    """Write seeds as `parse_seeds` reads them: (0, 1, 2, 3, 8) becomes `0-3,8`."""
    spans: list[list[int]] = []
    for seed in seeds:
        if spans and seed == spans[-1][1] + 1:
            spans[-1][1] = seed
        else:
            spans.append([seed, seed])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)


SeedList = Annotated[
    tuple[int, ...],
    BeforeValidator(_parse),
    PlainSerializer(format_seeds, return_type=str, when_used="json-unless-none"),
]
