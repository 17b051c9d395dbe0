"""95 % intervals of figures, and whether two figures differ by more than theirs."""

from __future__ import annotations

import math

Interval = tuple[float, float]
Z = 1.96
"""Half the width of the 95 % interval of a normal distribution, in standard deviations."""


def interval_of_error(value: float, error: float) -> Interval:
    """The 95 % interval of a figure with this standard error, supposed normal."""
    return value - Z * error, value + Z * error


def interval_of_share(share: float, n: float) -> Interval:
    """The 95 % interval of a share of n independent cases (Wilson 1927): inside [0, 1], also near its ends."""
    centre, half = share + Z * Z / (2 * n), Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return (centre - half) / (1 + Z * Z / n), (centre + half) / (1 + Z * Z / n)


def overlap(a: Interval, b: Interval) -> bool:
    """Whether two intervals overlap. If they do, the difference of the figures is not resolved."""
    return a[0] < b[1] and b[0] < a[1]
