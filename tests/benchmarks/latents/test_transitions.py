from __future__ import annotations

import math

import pytest
import torch

from benchmarks.latents.transitions import class_changes, fewest_changes, transitions


def test_pairs_are_within_a_class_when_both_ends_are_surely_of_it() -> None:
    sure, other, unsure = [0.95, 0.05], [0.05, 0.95], [0.6, 0.4]
    probabilities = torch.tensor([[sure, sure], [other, other], [sure, other], [sure, unsure]])
    found = transitions(torch.tensor([1.0, 3.0, 4.0, 6.0]), probabilities, sure=0.9)
    assert found.unsure == pytest.approx(1 / 8)
    assert found.between == pytest.approx(1 / 2)
    assert found.squared_share == pytest.approx((16 + 36) / (1 + 9 + 16 + 36))
    assert found.speed_ratio == pytest.approx(5 / 2)
    assert found.cv_within == pytest.approx(2**0.5 / 2)
    assert found.cv == pytest.approx(torch.tensor([1.0, 3, 4, 6]).std().item() / 3.5)


def test_two_and_three_classes_have_as_many_changes() -> None:
    # half-spaces are entered and left once, and three cells that meet in one place are passed through in turn
    assert fewest_changes(2) == pytest.approx(2)
    assert fewest_changes(3) == pytest.approx(3)


def test_cells_of_a_simplex_change_as_often_as_the_formula_says() -> None:
    seen = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 4000, 1, 10, generator=seen)
    t = (2 * math.pi * torch.arange(720) / 720)[:, None]
    mean, error = class_changes((a * t.cos() + b * t.sin()).argmax(2))
    assert error < 0.05
    assert mean == pytest.approx(fewest_changes(10), abs=4 * error)


def test_changes_close_the_circle() -> None:
    mean, error = class_changes(torch.tensor([[0, 0, 1, 2], [3, 3, 3, 3], [1, 0, 0, 1]]))
    assert mean == pytest.approx((3 + 0 + 2) / 3)
    assert error == pytest.approx(torch.tensor([3.0, 0, 2]).std().item() / 3**0.5)
