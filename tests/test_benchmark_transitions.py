from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from transitions import transitions


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
