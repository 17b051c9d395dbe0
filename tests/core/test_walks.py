from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gsd_cli.core.noise import latents
from gsd_cli.core.walks import walk

SHAPE = (1, 8, 8)


def pixels(z: Tensor) -> Tensor:
    return z


def apart(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).flatten(1).norm(dim=1)


def hurried(z: Tensor) -> Tensor:
    """A generator whose pictures change fast in one place: cubed amplitudes."""
    return z**3


@pytest.mark.parametrize("path", ["lerp", "slerp", "uniform"])
def test_ends_are_the_given_latents(path: str) -> None:
    a, b = latents([0, 1], SHAPE)
    found = walk(a, b, 7, path, hurried, apart)
    torch.testing.assert_close(found.z[0], a, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.z[-1], b, atol=1e-5, rtol=1e-5)
    assert len(found.images) == 7
    assert len(found.steps) == 6


def test_slerp_of_equal_norms_is_even_in_the_latent() -> None:
    a, b = latents([0, 1], SHAPE)
    found = walk(a, b * a.norm() / b.norm(), 9, "slerp", pixels, apart)
    assert found.unevenness == pytest.approx(1, abs=1e-4)


def test_uniform_evens_out_what_slerp_does_not() -> None:
    a, b = latents([0, 1], SHAPE)
    plain = walk(a, b, 12, "slerp", hurried, apart)
    even = walk(a, b, 12, "uniform", hurried, apart)
    assert plain.unevenness > 1.15
    assert even.unevenness < 1.05


def test_a_walk_that_goes_nowhere_has_length_zero() -> None:
    (a,) = latents([0], SHAPE)
    found = walk(a, a, 5, "uniform", pixels, apart)
    assert found.length == pytest.approx(0, abs=1e-4)
    torch.testing.assert_close(found.z[2], a, atol=1e-5, rtol=1e-5)
