"""95 % intervals against independent implementations and closed forms."""

from __future__ import annotations

import pytest
from scipy import stats

from gsd_cli.base.intervals import interval_of_error, interval_of_share, overlap


@pytest.mark.parametrize(("cases", "n"), [(0, 50), (1, 64), (32, 64), (200, 2000), (50, 50)])
def test_the_interval_of_a_share_is_wilsons(cases: int, n: int) -> None:
    expected = stats.binomtest(cases, n).proportion_ci(0.95, method="wilson")
    assert interval_of_share(cases / n, n) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_the_interval_of_an_error_holds_95_percent_of_a_normal_distribution() -> None:
    low, high = interval_of_error(3.0, 2.0)
    assert stats.norm(3, 2).cdf(high) - stats.norm(3, 2).cdf(low) == pytest.approx(0.95, abs=1e-4)


def test_overlap() -> None:
    assert overlap((0, 2), (1, 3)) and overlap((1, 3), (0, 2)) and overlap((0, 9), (4, 5))
    assert not overlap((0, 1), (1, 2)) and not overlap((3, 4), (0, 1))
