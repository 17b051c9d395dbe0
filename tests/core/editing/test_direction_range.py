"""The measured range of a direction, against its closed form for a linear generator."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gsd_cli.compute.random import latents
from gsd_cli.core.editing.direction import Direction
from gsd_cli.core.editing.direction_range import LARGEST, STEP, measure_range
from gsd_cli.core.editing.edit_image import FAR, usual_distance
from tests.support.linear import linear

SHAPE = (1, 8, 8)


def flat(images: Tensor) -> Tensor:
    return images.flatten(1)


def along(scale: float) -> Direction:
    (vector,) = latents([3], SHAPE)
    return Direction("a", "latent", vector / vector.norm(), scale, "test")


def test_a_range_ends_where_half_the_usual_distance_is_reached() -> None:
    """A rotation keeps distances: moving z by s on its sphere turns it by arctan(s / |z|), for z orthogonal to it."""
    generator = linear()
    low, high = measure_range(generator, along(4.0), flat)
    limit = FAR * usual_distance(generator, flat, 16)  # 64: the squared distance of random latents is 2 d = 128
    d = 64.0

    def moved(strength: float) -> float:
        angle = torch.atan(torch.tensor(4.0 * strength / d**0.5)).item()
        return 2 * d * (1 - torch.cos(torch.tensor(angle)).item())

    expected = next(k * STEP for k in range(1, 100) if moved((k + 1) * STEP) > limit)
    assert high == pytest.approx(expected, abs=STEP)
    assert low == pytest.approx(-expected, abs=STEP)


def test_a_range_is_one_step_at_least_and_ends_at_the_largest() -> None:
    assert measure_range(linear(), along(1e4), flat) == (-STEP, STEP)
    assert measure_range(linear(), along(1e-4), flat) == (-LARGEST, LARGEST)
