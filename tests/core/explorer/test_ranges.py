"""The measured ends of the sliders, and the tables of equal steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gsd_cli.core.editing.direction import Direction
from gsd_cli.core.explorer.ranges import FARTHEST, find_end, measure_range
from gsd_cli.core.explorer.walk_tables import FRAMES, walk_tables
from gsd_cli.core.latents.walks import interpolate, unevenness


@pytest.mark.parametrize(
    ("distances", "usual", "end"),
    [
        ([1, 2, 3, 4], 2.6, 2.5),  # at 2.6, rounded down
        ([1, 2, 3, 4], 3, 3.0),
        ([1, 2, 3, 4], 9, 4.0),  # never reached: as far as was tried
        ([5, 9, 9, 9], 1, 1.0),  # at once: not less than 1
        ([0, 0, 0, 0], 1, 4.0),  # moves nothing
    ],
)
def test_a_slider_ends_where_the_distance_is_usual(distances: list[float], usual: float, end: float) -> None:
    assert find_end(torch.tensor(distances, dtype=torch.float32), usual) == end


class Sum(nn.Module):
    """A generator whose image is its latent."""

    latent_shape = image_shape = (1, 4, 4)
    device, exported = torch.device("cpu"), None

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, z: Tensor) -> Tensor:
        return z


def test_a_range_has_two_sides() -> None:
    """Features that see only one side of the direction end the slider on that side."""
    vector = torch.zeros(1, 4, 4)
    vector[0, 0, 0] = 1
    direction = Direction("up", "latent", vector, 4.0, "mean")
    net = Sum()

    def high(x: Tensor) -> Tensor:
        return x.flatten(1)[:, :1].clamp(min=0)

    low, end = measure_range(net, direction, high, 2.0, 64)  # type: ignore[arg-type]
    assert low == -FARTHEST and 1 <= end < FARTHEST
    assert measure_range(net, direction, high, 1e9, 64) == (-FARTHEST, FARTHEST)  # type: ignore[arg-type]


def test_walks_have_a_table_per_pair(toy_teacher) -> None:  # type: ignore[no-untyped-def]
    from gsd_cli.core.latents.inversion import encoder_features
    from gsd_cli.core.models.generator import Generator

    generator = Generator(toy_teacher.eval())
    starts = list(torch.randn(3, *generator.latent_shape))
    seen: list[int] = []
    tables = walk_tables(generator, starts, 64, lambda done, total: seen.append(total))
    assert list(tables) == [(0, 1), (0, 2), (1, 2)] and seen == [3, 3, 3]
    features = encoder_features(generator)
    for (a, b), s in tables.items():
        assert s[0] == 0 and s[-1] == 1 and s == sorted(s) and len(s) == FRAMES
        with torch.no_grad():
            vectors = features(generator(interpolate(starts[a], starts[b], torch.tensor(s), "slerp")))
        assert unevenness((vectors[1:] - vectors[:-1]).norm(dim=1)) < 1.3
