"""Numbers and times as people write them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsd_cli.base.text import format_duration, format_number, format_seconds


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1290.0, "1,290"),
        (12_900, "12,900"),
        (0.00753, "0.00753"),
        (60.0, "60"),
        (0, "0"),
        (9.9996, "10"),
        (-2.5, "-2.5"),
    ],
)
def test_numbers_have_no_exponent(value: float, text: str) -> None:
    assert format_number(value) == text


@given(st.floats(1e-6, 1e9), st.integers(1, 6))
def test_a_number_keeps_its_significant_digits(value: float, digits: int) -> None:
    text = format_number(value, digits)
    assert "e" not in text
    assert math.isclose(float(text.replace(",", "")), float(f"{value:.{digits}g}"), rel_tol=1e-9)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0075, "7.5 ms"), (1.29, "1.29 s"), (0.9999, "1 s"), (0.00087, "0.87 ms"), (7.41, "7.41 s"), (1500, "25 min"),
     (47_000, "13 hours")],
)  # fmt: skip
def test_times_have_the_unit_of_people(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(40, "40 s"), (89, "89 s"), (720, "12 min"), (9000, "2.5 hours"), (46_800, "13 hours")]
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
