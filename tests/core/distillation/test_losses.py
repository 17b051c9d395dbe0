from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gsd_cli.core.distillation.isometric_forms import distance, speed_loss
from gsd_cli.core.distillation.losses import fake_score_loss, score_identity_loss

SHAPE = (3, 2, 2, 2)


@pytest.fixture
def y() -> Tensor:
    return torch.randn(SHAPE, dtype=torch.float64, requires_grad=True)


NOISE = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def teacher(x: Tensor) -> Tensor:
    return torch.tanh(0.7 * x + 0.2) + 0.1 * x.square()


def fake(x: Tensor) -> Tensor:
    return torch.sin(x) - 0.3 * x


def _frozen_weight(y: Tensor) -> Tensor:
    return np.maximum(np.abs((y - teacher(y + NOISE)).detach().numpy()).reshape(len(y), -1).mean(1), 1e-5)


def test_alpha_half_is_a_difference_of_squares(y: Tensor) -> None:
    f, h = teacher(y + NOISE), fake(y + NOISE)
    integrand = ((f - y) ** 2 - (h - y) ** 2).detach().numpy().reshape(len(y), -1).sum(1) / 2
    loss = score_identity_loss(y, f, h, alpha=0.5).detach().numpy()
    np.testing.assert_allclose(loss, integrand / _frozen_weight(y), rtol=1e-12)


def test_alpha_zero_and_the_default_of_one(y: Tensor) -> None:
    f, h = teacher(y + NOISE), fake(y + NOISE)
    w = torch.from_numpy(_frozen_weight(y))
    torch.testing.assert_close(score_identity_loss(y, f, h, 0.0), ((f - h) * (f - y)).sum((1, 2, 3)) / w)
    torch.testing.assert_close(score_identity_loss(y, f, h), ((f - h) * (h - y)).sum((1, 2, 3)) / w)


def test_detaching_the_scores_is_another_gradient(y: Tensor) -> None:
    f, h = teacher(y + NOISE), fake(y + NOISE)
    (right,) = torch.autograd.grad(score_identity_loss(y, f, h).sum(), y)
    (wrong,) = torch.autograd.grad(score_identity_loss(y, f.detach(), h.detach()).sum(), y)
    assert (right - wrong).norm() > 0.1 * right.norm()


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.2])
def test_equal_scores_are_a_rest_point(y: Tensor, alpha: float) -> None:
    loss = score_identity_loss(y, teacher(y + NOISE), teacher(y + NOISE), alpha)
    (gradient,) = torch.autograd.grad(loss.sum(), y)
    assert loss.abs().max() == 0
    assert gradient.abs().max() < 1e-14


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.2])
def test_gradient_matches_finite_differences_with_the_weight_frozen(y: Tensor, alpha: float) -> None:
    w = torch.from_numpy(_frozen_weight(y))

    def value(images: Tensor) -> float:
        f, h = teacher(images + NOISE), fake(images + NOISE)
        return (((f - h) * ((f - images) - alpha * (f - h))).sum((1, 2, 3)) / w).sum().item()

    loss = score_identity_loss(y, teacher(y + NOISE), fake(y + NOISE), alpha)
    (gradient,) = torch.autograd.grad(loss.sum(), y)
    base, e = y.detach(), 1e-6
    for i in range(base.numel()):
        step = torch.zeros(base.numel(), dtype=torch.float64)
        step[i] = e
        slope = (value(base + step.reshape(SHAPE)) - value(base - step.reshape(SHAPE))) / (2 * e)
        assert gradient.flatten()[i].item() == pytest.approx(slope, rel=1e-6, abs=1e-7)


def test_a_perfect_teacher_estimate_does_not_divide_by_zero() -> None:
    y = torch.zeros(1, 1, 2, 2)
    loss = score_identity_loss(y, y, y + 1e-3)
    assert loss.item() == pytest.approx(-4e-6 / 1e-5, rel=1e-4)


def test_fake_score_loss_is_the_eps_error() -> None:
    y, noise, eps = torch.randn(3, *SHAPE)
    sigma = torch.tensor([0.1, 1.0, 20.0])
    column = sigma.reshape(-1, 1, 1, 1)
    denoised = (y + column * noise) - column * eps
    found = fake_score_loss(y, denoised, sigma**-2).numpy()
    expected = ((eps - noise).numpy() ** 2).reshape(3, -1).sum(1)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


# -- the isometric term -------------------------------------------------------------------------


def _sphere_pairs(pairs: int, d: int, theta: Tensor) -> tuple[Tensor, Tensor]:
    z, w = torch.randn(2, pairs, d, dtype=torch.float64)
    z = z / z.norm(dim=1, keepdim=True)
    w = w - (w * z).sum(1, keepdim=True) * z
    w = w / w.norm(dim=1, keepdim=True)
    return z * d**0.5, (theta.cos()[:, None] * z + theta.sin()[:, None] * w) * d**0.5


def test_an_orthogonal_map_has_one_speed() -> None:
    q, _ = torch.linalg.qr(torch.randn(24, 24, dtype=torch.float64))
    theta = torch.linspace(0.05, 0.5, 40, dtype=torch.float64)
    a, b = _sphere_pairs(40, 24, theta)
    loss = speed_loss(distance(a @ q.T, b @ q.T), theta)
    # chord 2 sin(theta/2) for arc theta: log speeds spread over at most theta^2 / 24 = 0.0105
    assert loss.max() < 0.0105**2
    same = torch.full_like(theta, 0.3)
    a, b = _sphere_pairs(40, 24, same)
    assert speed_loss(distance(a @ q.T, b @ q.T), same).max() < 1e-20


def test_an_anisotropic_map_has_the_variance_of_its_log_speeds() -> None:
    scales = np.array([0.5, 1.0, 4.0])
    directions = np.random.default_rng(3).normal(size=(9, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    theta = np.geomspace(0.05, 0.5, 9)
    start = np.random.default_rng(4).normal(size=(9, 3))
    a, b = torch.from_numpy(start * scales), torch.from_numpy((start + theta[:, None] * directions) * scales)
    loss = speed_loss(distance(a, b), torch.from_numpy(theta))
    log_speed = np.log(np.linalg.norm(directions * scales, axis=1))
    np.testing.assert_allclose(loss.numpy(), (log_speed - log_speed.mean()) ** 2, rtol=1e-6, atol=1e-9)
    assert loss.mean().item() == pytest.approx(np.var(log_speed), rel=1e-6)
    assert np.var(log_speed) > 0.1


def test_speed_loss_does_not_see_scale() -> None:
    d, theta = torch.rand(6) + 0.1, torch.rand(6) * 0.4 + 0.1
    torch.testing.assert_close(speed_loss(100 * d, theta), speed_loss(d, theta), rtol=1e-3, atol=1e-5)


def test_speed_loss_gradient_matches_finite_differences() -> None:
    theta = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    features = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)

    def loss(v: Tensor) -> Tensor:
        return speed_loss(distance(v[:3], v[3:]), theta)

    assert torch.autograd.gradcheck(loss, features, atol=1e-7)
    (gradient,) = torch.autograd.grad(loss(features).mean(), features)
    assert (gradient.norm(dim=1) > 1e-6).all()


def test_speed_loss_gradient_is_finite_at_identical_images() -> None:
    a = torch.randn(3, 5, requires_grad=True)
    b = a.detach().clone()
    b[1:] += 0.1
    loss = speed_loss(distance(a, b), torch.tensor([0.1, 0.2, 0.3]))
    (gradient,) = torch.autograd.grad(loss.sum(), a)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient[1:].abs().max() > 0


def test_distance_is_euclidean() -> None:
    a, b = torch.randn(2, 5, 7)
    np.testing.assert_allclose(distance(a, b).numpy(), np.linalg.norm(a.numpy() - b.numpy(), axis=1), rtol=1e-5)
