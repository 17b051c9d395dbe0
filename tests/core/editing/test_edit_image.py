"""Strips towards a class, on a generator whose images are a rotation of the latent."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gsd_cli.compute.random import latents
from gsd_cli.core.editing.direction import Direction
from gsd_cli.core.editing.edit_image import edit_until_reached, usual_distance
from gsd_cli.core.editing.supervised import Attribute
from gsd_cli.core.latents.files import Anchor
from tests.support.linear import Linear, linear

SHAPE = (1, 8, 8)


def flat(images: Tensor) -> Tensor:
    return images.flatten(1)


@pytest.mark.parametrize("strengths", [[-2.0, -1.0, 0.0, 1.0, 2.0], [-1.0, 0.0, 1.0, 2.0], [0.0, 1.0, 2.0], [0.5, 2.0]])
def test_a_strip_begins_and_ends_at_its_strengths_and_passes_through_the_image(strengths: list[float]) -> None:
    generator, (z,) = linear(), latents([3], SHAPE)
    (vector,) = latents([4], SHAPE)
    vector = vector - (vector * z).sum() / z.square().sum() * z  # a turn of z
    direction = Direction("a", "latent", vector / vector.norm(), 1.0, "test")
    axis = Linear().weight @ direction.vector.flatten()
    target = Attribute("a", lambda images: flat(images) @ axis, signed=True)
    anchor = Anchor(z, {})
    edited = edit_until_reached(generator, anchor, direction, target, 1.0, strengths, flat, 16)
    change = target.score(edited.images) - target.score(generator(z[None]))
    assert change[0].item() == pytest.approx(strengths[0], abs=0.05)
    assert change[-1].item() == pytest.approx(strengths[-1], abs=0.05)
    assert (change.diff() > 0).all()
    if 0.0 in strengths:
        assert edited.images[strengths.index(0.0)] == pytest.approx(generator(z[None])[0], abs=1e-5)


def test_the_usual_distance_of_a_rotation_of_noise() -> None:
    # |a - b|^2 of two standard normal vectors of 64 numbers: 128 on average, 16 their standard deviation
    assert usual_distance(linear(), flat, 16) == pytest.approx(128, abs=8)
    assert usual_distance(linear(), flat, 7) == pytest.approx(usual_distance(linear(), flat, 32), rel=1e-5)
    assert torch.is_grad_enabled()
