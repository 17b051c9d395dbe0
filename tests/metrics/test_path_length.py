"""Path length of linear generators, which has closed forms."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from gsd_cli.compute.random import generator_for, latents
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.models.sphere import slerp
from gsd_cli.core.sampling.discrete import ddim
from gsd_cli.metrics.path_length import _summarise, noise_floor, path_length, path_length_protocol

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


def test_both_intervals_hold_what_they_say() -> None:
    """On squared Gaussians, skewed as path lengths are, some 95 % of intervals hold the true means."""
    random = torch.Generator().manual_seed(1)
    low, high = chi2.ppf([0.01, 0.99], 4)
    trimmed_truth = chi2.expect(lambda x: x, (4,), lb=low, ub=high) / 0.98
    hits = torch.zeros(2)
    for _ in range(300):
        found = _summarise(torch.randn(400, 4, generator=random).square().sum(1).double(), 1e-4)
        hits[0] += found.low < trimmed_truth < found.high
        hits[1] += found.untrimmed_low < 4 < found.untrimmed_high
    assert ((hits / 300 > 0.91) & (hits / 300 < 0.99)).all()


def test_deterministic_samplers_are_measured_on_the_same_paths() -> None:
    """The DDIM map of pixels ~ N(0, c^2) is a known factor: so is the ratio of the path lengths."""

    class Net(torch.nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> SimpleNamespace:
            sigma = BetaSchedule.linear().sigma(t).reshape(-1, 1, 1, 1)
            return SimpleNamespace(sample=sigma * x * (1 + sigma**2).sqrt() / (0.25 + sigma**2))

    teacher = Denoiser(Net(), BetaSchedule.linear())
    found = path_length(lambda z: ddim(teacher, z.float(), 20, clip=False), squared, SHAPE, 20, 1e-3)
    factor = ddim(teacher, torch.ones(1, *SHAPE), 20, clip=False).mean().item()
    assert factor == pytest.approx(0.5, rel=0.2)  # 20 steps are coarse
    assert found.mean == pytest.approx(factor**2 * path_length(scaled(1), squared, SHAPE, 20, 1e-3).mean, rel=1e-3)


def test_path_length_agrees_with_torchmetrics(toy_teacher: Denoiser) -> None:
    """An independent implementation, on the same generator and distance, within the sampling error."""
    torchmetrics = pytest.importorskip("torchmetrics.functional.image")
    generator = Generator(toy_teacher).double()
    shape, pairs = generator.latent_shape, 300

    class Theirs(torch.nn.Module):
        def sample(self, num_samples: int) -> Tensor:
            return torch.randn(num_samples, math.prod(shape), dtype=torch.float64)

        def forward(self, z: Tensor) -> Tensor:
            return (generator(z.reshape(-1, *shape)) + 1) * 127.5

    class Net(torch.nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return squared(a, b)

    mean, _, values = torchmetrics.perceptual_path_length(
        Theirs(), pairs, interpolation_method="slerp_any", epsilon=1e-3, resize=None, sim_net=Net()
    )
    ours = path_length(lambda z: generator(z.double()), squared, shape, pairs, 1e-3)
    error = math.hypot((ours.high - ours.mean) / 1.96, (values.std() / len(values) ** 0.5).item())
    assert error < 0.05 * ours.mean
    assert abs(ours.mean - mean.item()) < 3.5 * error


def test_one_per_cent_is_trimmed_at_each_end() -> None:
    calls = iter(range(100))

    def outlier(a: Tensor, b: Tensor) -> Tensor:
        return torch.tensor([1e9 if next(calls) == 50 else 1.0 for _ in range(len(a))])

    found = path_length(scaled(1), outlier, SHAPE, 100, 1.0)
    assert found.mean == 1
    assert found.untrimmed == pytest.approx(1e7, rel=1e-3)


def test_few_pairs_are_not_trimmed_and_the_protocol_says_so() -> None:
    """An interval of ten pairs is Student's: 15 % wider than the normal one."""
    values = torch.arange(10.0).double()
    found = _summarise(values, 1e-4)
    assert found.mean == found.untrimmed == 4.5
    assert found.high - found.mean == pytest.approx(2.262 * values.std().item() / 10**0.5, rel=1e-3)
    assert "0 of the pairs trimmed" in path_length_protocol(99, 1e-4)
    assert "2 of the pairs trimmed" in path_length_protocol(200, 1e-4)


def test_a_deterministic_model_has_no_noise_floor() -> None:
    # two roundings of one latent, and no noise of the network's own: nothing next to e = 1e-4
    assert 0 < noise_floor(scaled(5), squared, SHAPE) / 1e-8 < 1e-3 * path_length(scaled(5), squared, SHAPE, 64).mean
    with pytest.raises(ValueError, match="positive"):
        path_length(scaled(1), squared, SHAPE, 4, 0)


def test_path_points_agree_with_slerp() -> None:
    z0, z1 = latents([5], SHAPE, "ppl-0"), latents([5], SHAPE, "ppl-1")
    seen: list[Tensor] = []

    def images(z: Tensor) -> Tensor:
        seen.append(z)
        return z

    path_length(images, squared, SHAPE, 6, 1e-3, batch_size=1)
    t = torch.rand((), generator=generator_for(5, "ppl-t"), dtype=torch.float64)
    torch.testing.assert_close(seen[5][:1], slerp(z0.double(), z1.double(), t).float())
