"""The figures of benchmarks/metrics/parity.py, each held under its limit."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from benchmarks.metrics import parity


@pytest.mark.parametrize("check", parity.CHECKS, ids=lambda check: check.__name__)
def test_figures_are_those_of_others(check: Callable[[], list[parity.Parity]]) -> None:
    for found in check():
        assert found.difference <= found.limit or abs(found.ours - found.theirs) <= found.limit, found
        assert found.limit == 0 or found.theirs != 0, "an empty comparison"
