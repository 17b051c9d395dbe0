"""Path length and isometry of linear generators, which have closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gsd_cli.core.noise import generator_for, latents, slerp
from gsd_cli.metrics.isometry import isometry
from gsd_cli.metrics.ppl import noise_floor, path_length

SHAPE = (1, 6, 6)


def squared(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).double().square().flatten(1).sum(1)


def scaled(factor: float):  # type: ignore[no-untyped-def]
    return lambda z: factor * z.double()


@pytest.mark.parametrize("epsilon", [1e-3, 1e-2])
def test_path_length_of_a_scaled_identity_is_the_speed_of_slerp_squared(epsilon: float) -> None:
    pairs = 40
    expected = []
    for k in range(pairs):
        z0, z1 = latents([k], SHAPE, "ppl-0").double(), latents([k], SHAPE, "ppl-1").double()
        t = torch.rand((), generator=generator_for(k, "ppl-t"), dtype=torch.float64).item()
        # an independent slerp, straight from its definition
        u, v = z0.flatten(), z1.flatten()
        omega = math.acos(float(u @ v / u.norm() / v.norm()))

        def point(s: float, u: Tensor = u, v: Tensor = v, omega: float = omega) -> Tensor:
            unit = (math.sin((1 - s) * omega) * u / u.norm() + math.sin(s * omega) * v / v.norm()) / math.sin(omega)
            return unit * ((1 - s) * u.norm() + s * v.norm())

        expected.append((3 * (point(t + epsilon) - point(t))).square().sum().item() / epsilon**2)
    found = path_length(scaled(3), squared, SHAPE, pairs, epsilon)
    assert found.untrimmed == pytest.approx(sum(expected) / pairs, rel=1e-2)
    assert found.low < found.mean < found.high


def test_path_length_is_quadratic_in_the_speed_and_independent_of_the_batch() -> None:
    one = path_length(scaled(1), squared, SHAPE, 30, 1e-3)
    two = path_length(scaled(2), squared, SHAPE, 30, 1e-3, batch_size=7)
    assert two.mean == pytest.approx(4 * one.mean, rel=1e-6)


def test_one_per_cent_is_trimmed_at_each_end() -> None:
    calls = iter(range(100))

    def outlier(a: Tensor, b: Tensor) -> Tensor:
        return torch.tensor([1e9 if next(calls) == 50 else 1.0 for _ in range(len(a))])

    found = path_length(scaled(1), outlier, SHAPE, 100, 1.0)
    assert found.mean == 1
    assert found.untrimmed == pytest.approx(1e7, rel=1e-3)


def test_a_deterministic_model_has_no_noise_floor() -> None:
    assert noise_floor(scaled(5), squared, SHAPE) == 0
    with pytest.raises(ValueError, match="positive"):
        path_length(scaled(1), squared, SHAPE, 4, 0)


def test_a_scaled_identity_is_isometric_and_a_stretched_one_is_not() -> None:
    even = isometry(scaled(2), squared, (1, 32, 32), pairs=128)
    # what is left is the spread of |z - w| itself, about 1 / sqrt(2 d)
    assert even.speed_cv < 0.05
    assert even.spearman > 0.99
    stretch = torch.ones(1, 32, 32, dtype=torch.float64)
    stretch[0, 0, 0] = 200
    uneven = isometry(lambda z: stretch * z.double(), squared, (1, 32, 32), pairs=128)
    assert uneven.speed_cv > 0.5


def test_mean_distance_of_random_pairs_is_that_of_two_gaussians() -> None:
    found = isometry(scaled(1), squared, (1, 32, 32), pairs=64)
    assert found.pair_distance == pytest.approx(math.sqrt(2 * 32 * 32), rel=0.02)


def test_path_points_agree_with_slerp() -> None:
    z0, z1 = latents([5], SHAPE, "ppl-0"), latents([5], SHAPE, "ppl-1")
    seen: list[Tensor] = []

    def images(z: Tensor) -> Tensor:
        seen.append(z)
        return z

    path_length(images, squared, SHAPE, 6, 1e-3, batch_size=1)
    t = torch.rand((), generator=generator_for(5, "ppl-t"), dtype=torch.float64)
    torch.testing.assert_close(seen[5][:1], slerp(z0.double(), z1.double(), t).float())
