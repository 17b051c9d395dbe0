"""The strength at which a change is reached."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gsd_cli.core.editing.reach import FARTHEST, find_strengths


def test_a_linear_change_is_reached_at_its_inverse() -> None:
    assert find_strengths(lambda t: 2 * t, [1.0, -2.0, 0.0]) == pytest.approx([0.5, -1.0, 0.0], abs=0.01)


def test_a_steep_change_is_reached_within_its_step() -> None:
    def step(t: Tensor) -> Tensor:
        return (t > 1.3).float() * 5

    (found,) = find_strengths(step, [2.0])
    assert 1.3 < found < 1.31


def test_the_first_of_several_places_counts() -> None:
    (found,) = find_strengths(lambda t: (3 * t).sin() * 1.5, [1.0])
    assert found == pytest.approx(0.2432, abs=0.01)  # arcsin(2 / 3) / 3


def test_what_is_never_reached_stops_at_the_largest_change() -> None:
    (found,) = find_strengths(lambda t: t.clamp(max=0.5) - (t - 1).clamp(min=0), [2.0])
    assert 0.5 <= found <= 1.0
    (found,) = find_strengths(lambda t: -t, [1.0])  # the wrong way: the image stays
    assert found == 0
    (found,) = find_strengths(lambda t: torch.where(t < 1, -t, 0.4), [2.0])  # back to a little, after the wrong way
    assert found == 0
    (found,) = find_strengths(lambda t: 0.1 * t, [1.0])
    assert found == pytest.approx(FARTHEST)
