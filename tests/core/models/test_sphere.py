from __future__ import annotations

import math

import pytest
import torch

from gsd_cli.compute.random import latents
from gsd_cli.core.latents.gaussianity import correlations, gaussianity, kurtosis, prior
from gsd_cli.core.models.sphere import tangent_part, to_sphere

SHAPE = (1, 32, 32)


def test_noise_is_within_gaussian_bounds() -> None:
    z = latents(range(300), SHAPE)
    found = gaussianity(z)
    assert sum(bool(g.strange) for g in found) <= 3  # four standard deviations
    assert sum(g.correlation for g in found) / 300 == pytest.approx(0, abs=0.005)
    assert kurtosis(z).mean().item() == pytest.approx(3, abs=0.05)


def test_what_is_not_noise_is_named() -> None:
    (z,) = latents([1], SHAPE)[None]
    smooth = to_sphere(torch.nn.functional.avg_pool2d(z, 3, 1, 1))
    assert "correlation" in gaussianity(smooth)[0].strange
    assert gaussianity(1.5 * z)[0].strange == ["norm"]
    assert gaussianity(to_sphere(z**3))[0].strange == ["kurtosis"]


def test_correlation_of_a_checkerboard_is_minus_one_and_of_a_constant_plus_one() -> None:
    grid = torch.arange(32)
    board = ((grid[:, None] + grid) % 2 * 2.0 - 1)[None, None]
    torch.testing.assert_close(correlations(board), torch.full((1, 2), -1.0))
    torch.testing.assert_close(correlations(torch.ones(1, 1, 32, 32)), torch.full((1, 2), 1.0))


def test_the_prior_is_small_for_noise_and_large_for_anything_else() -> None:
    z = latents(range(50), SHAPE)
    assert prior(z).max() < 0.06
    assert prior(torch.nn.functional.avg_pool2d(z, 3, 1, 1)).min() > 0.3


def test_to_sphere_and_tangent_part() -> None:
    z, v = latents([0, 1], SHAPE), latents([2, 3], SHAPE)
    norms = to_sphere(7 * z).flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.full((2,), math.sqrt(1024)))
    product = (tangent_part(v, z) * z).flatten(1).sum(1)
    torch.testing.assert_close(product, torch.zeros(2), atol=1e-3, rtol=0)
