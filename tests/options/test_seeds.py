from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from gsd_cli.options.seeds import MOST_SEEDS, SeedList, parse_seeds

SPANS = st.lists(
    st.tuples(st.integers(0, 10**9), st.integers(0, 50)).map(lambda span: range(span[0], span[0] + span[1] + 1)),
    min_size=1,
    max_size=8,
)


@given(SPANS, st.booleans())
def test_ranges_and_numbers_are_written_out_in_order(spans: list[range], spaces: bool) -> None:
    parts = [f"{s[0]}-{s[-1]}" if len(s) > 1 else str(s[0]) for s in spans]
    text = (", " if spaces else ",").join(parts)
    assert parse_seeds(text) == tuple(dict.fromkeys(seed for span in spans for seed in span))


@given(st.integers(0, 2**63 - 1))
def test_one_seed(seed: int) -> None:
    assert parse_seeds(str(seed)) == (seed,)
    assert parse_seeds(f"{seed}-{seed}") == (seed,)


@given(st.text(max_size=12))
def test_any_text_gives_seeds_or_a_value_error(text: str) -> None:
    try:
        seeds = parse_seeds(text)
    except ValueError:
        return
    assert seeds
    assert all(isinstance(s, int) and s >= 0 for s in seeds)


@pytest.mark.parametrize("text", ["0-63,100", "007", " 5 ", "3,3,1-2"])
def test_good(text: str) -> None:
    expected = {"0-63,100": (*range(64), 100), "007": (7,), " 5 ": (5,), "3,3,1-2": (3, 1, 2)}
    assert parse_seeds(text) == expected[text]


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "5-3", "1,,2", "1,", ",1", "-1", "1-", "-", "1-2-3", "--1", "1.5", "a", "0x10", "1e3", "+1", "²",
        "٣", "1 2", "1_000", "0-99999999", "0-9999999,0", str(2**63), f"0-{2**63 - 1}", f"0-{2**63 - 2}",
        f"{2**63 - 2}-{2**64}", "9" * 5000,
    ],
)  # fmt: skip
@pytest.mark.fault(15, "wrong seed lists")
def test_bad(text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - every message differs
        parse_seeds(text)
    assert str(caught.value)


def test_the_limit_is_inclusive() -> None:
    assert len(parse_seeds(f"1-{MOST_SEEDS}")) == MOST_SEEDS == 10_000_000


def test_as_an_option() -> None:
    option = TypeAdapter(SeedList)
    assert option.validate_python("1-3") == (1, 2, 3)
    assert option.validate_python([4, 5]) == (4, 5)
    with pytest.raises(ValidationError, match="runs backwards"):
        option.validate_python("5-3")


def test_a_seed_that_is_given_twice_counts_once() -> None:
    assert parse_seeds("1,1") == (1,)
    assert parse_seeds("3-8,0-5") == (3, 4, 5, 6, 7, 8, 0, 1, 2)
