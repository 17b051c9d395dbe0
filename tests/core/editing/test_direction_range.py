"""The measured range of a direction."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gsd_cli.core.editing.direction import Direction
from gsd_cli.core.editing.direction_range import FARTHEST, find_end, measure_range
from gsd_cli.core.models.condition import UNCONDITIONAL, Condition


@pytest.mark.parametrize(
    ("distances", "usual", "end"),
    [
        ([1, 2, 3, 4], 2.6, 2.5),  # at 2.6, rounded down
        ([1, 2, 3, 4], 3, 3.0),
        ([1, 2, 3, 4], 9, 4.0),  # never reached: the largest that was tried
        ([5, 9, 9, 9], 1, 1.0),  # at once: not less than 1
        ([0, 0, 0, 0], 1, 4.0),  # moves nothing
    ],
)
def test_a_range_ends_where_the_distance_is_usual(distances: list[float], usual: float, end: float) -> None:
    assert find_end(torch.tensor(distances, dtype=torch.float32), usual) == end


class Sum(nn.Module):
    """A generator whose image is its latent."""

    latent_shape = image_shape = (1, 4, 4)
    device, exported, condition = torch.device("cpu"), None, UNCONDITIONAL

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, z: Tensor, condition: Condition | None = None) -> Tensor:
        return z


def test_a_range_has_two_sides() -> None:
    """Features that see only one side of the direction end the range on that side."""
    vector = torch.zeros(1, 4, 4)
    vector[0, 0, 0] = 1
    direction = Direction("up", "latent", vector, 4.0, "mean")
    net = Sum()

    def high(x: Tensor) -> Tensor:
        return x.flatten(1)[:, :1].clamp(min=0)

    low, end = measure_range(net, direction, high, 2.0, 64)  # type: ignore[arg-type]
    assert low == -FARTHEST and 1 <= end < FARTHEST
    assert measure_range(net, direction, high, 1e9, 64) == (-FARTHEST, FARTHEST)  # type: ignore[arg-type]
