"""Clusters of images and cells of latents: closed forms, and parity with other ways to the same numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gsd_cli.core.distillation.cells import (
    SOFTNESS,
    fit_anchors,
    fit_biases,
    regular_simplex,
    shares,
    soft_cells,
)
from gsd_cli.core.distillation.clusters import CONFIDENCE, fit_centres, fit_temperature, log_memberships
from gsd_cli.core.distillation.fit_sources import coarse, coarse_factor
from gsd_cli.core.distillation.isometric_forms import borders_loss, cells_loss

SHAPES = [(1, 32, 32), (3, 16, 24), (1, 20, 13), (4, 8, 8), (2, 4, 6), (1, 9, 3)]


def blobs(count: int, spread: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Vectors round twelve corners of a cube in 40 dimensions, and whose they are."""
    corners = 3 * torch.randn(12, 40, generator=generator)
    labels = torch.randint(12, (count,), generator=generator)
    return corners[labels] + spread * torch.randn(count, 40, generator=generator), labels


# -- the losses ----------------------------------------------------------------------------------


def test_memberships_are_a_softmax_of_squared_distances() -> None:
    phi, centres, t = torch.randn(5, 7).double(), torch.randn(4, 7).double(), torch.tensor(1.7).double()
    wanted = (-torch.cdist(phi, centres).square() / (2 * t)).softmax(1)
    found = log_memberships(phi, centres, t).exp()
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(found.sum(1), torch.ones(5).double())
    # at a border's middle both sides have half
    halves = log_memberships((centres[:1] + centres[1:2]) / 2, centres[:2], t).exp()
    torch.testing.assert_close(halves, torch.full((1, 2), 0.5).double())


def test_a_border_counts_two_over_the_angle_whatever_its_width() -> None:
    a, b, c = torch.eye(3).double()
    theta = torch.tensor([0.1, 0.5, 0.2, 0.1]).double()
    q, near = torch.stack([a, a, b, a]), torch.stack([b, a, (b + c) / 2, c])
    torch.testing.assert_close(
        borders_loss(q, near, theta), torch.tensor([2, 0, 1 / 2, 2]) / theta * torch.tensor([1, 1, 2, 1])
    )
    # a wide border in steps is as much as a narrow one at once: the way is 2 for both
    path = torch.stack([torch.lerp(a, b, s) for s in torch.linspace(0, 1, 9, dtype=torch.float64)])
    steps = torch.full((8,), 0.05).double()
    assert (borders_loss(path[:-1], path[1:], steps) * steps).sum().item() == pytest.approx(2)
    # there and back is twice that
    assert borders_loss(torch.stack([a, b]), torch.stack([b, a]), torch.ones(2)).sum().item() == 4


def test_cells_are_least_where_memberships_are_the_targets() -> None:
    t = torch.randn(50, 6, dtype=torch.float64).softmax(1)
    entropy = -(t * t.log()).sum(1)
    torch.testing.assert_close(cells_loss(t.log(), t), entropy)
    other = torch.randn(50, 6, dtype=torch.float64).log_softmax(1)
    excess = cells_loss(other, t) - entropy
    torch.testing.assert_close(excess, torch.nn.functional.kl_div(other, t, reduction="none").sum(1))
    assert (excess > 0).all()


def test_gradients_match_finite_differences() -> None:
    phi = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    centres, t = torch.randn(3, 5, dtype=torch.float64), torch.tensor(2.0, dtype=torch.float64)
    theta, targets = torch.rand(4, dtype=torch.float64) + 0.1, torch.randn(4, 3, dtype=torch.float64).softmax(1)

    def borders(phi: Tensor) -> Tensor:
        q = log_memberships(phi, centres, t).exp()
        return borders_loss(q[0], q[1], theta)

    assert torch.autograd.gradcheck(borders, phi)
    assert torch.autograd.gradcheck(lambda phi: cells_loss(log_memberships(phi[0], centres, t), targets), phi)


# -- clusters ------------------------------------------------------------------------------------


def test_k_means_finds_the_clusters_that_there_are() -> None:
    generator = torch.Generator().manual_seed(1)
    vectors, labels = blobs(600, 0.3, generator)
    centres = fit_centres(vectors, 12, 0)
    means = torch.stack([vectors[labels == k].mean(0) for k in range(12)])
    apart = torch.cdist(means, centres)
    assert sorted(apart.argmin(1).tolist()) == list(range(12))
    assert apart.amin(1).max() < 1e-3
    assert torch.equal(centres, fit_centres(vectors, 12, 0))


def test_fewer_different_images_make_fewer_clusters() -> None:
    vectors = torch.eye(3, 9).repeat(20, 1)
    centres = fit_centres(vectors, 16, 0)
    assert sorted(centres.argmax(1).tolist()) == [0, 1, 2]
    assert len(fit_centres(torch.randn(5, 9), 16, 0)) == 5


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("sure", [0.6, CONFIDENCE])
def test_the_temperature_reaches_the_mean_membership(scale: float, sure: float) -> None:
    generator = torch.Generator().manual_seed(2)
    vectors = scale * blobs(500, 3.0, generator)[0]
    centres = fit_centres(vectors, 12, 0)
    q = log_memberships(vectors, centres, fit_temperature(vectors, centres, sure)).exp()
    torch.testing.assert_close(q.sum(1), torch.ones(500))
    assert q.amax(1).mean().item() == pytest.approx(sure, abs=1e-3)


def test_shares_are_means_of_each_class() -> None:
    q = torch.tensor([[1.0, 0], [0.5, 0.5], [0, 1.0], [0.5, 0.5]])
    assert shares(q).tolist() == [[0.5, 0.5]]
    found = shares(q, torch.tensor([0, 0, 1, 1]), 3)
    wanted = torch.tensor([[2.0 / 3, 1.0 / 3], [1.0 / 3, 2.0 / 3], [0.5, 0.5]])
    torch.testing.assert_close(found, wanted)


# -- cells ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_coarse_values_have_the_computed_covariance(shape: tuple[int, int, int]) -> None:
    factor = coarse_factor(shape)
    # each pixel of z alone gives the rows of the map z -> coarse values
    pixels = torch.eye(math.prod(shape)).reshape(-1, *shape)
    matrix = coarse(pixels)
    assert matrix.shape[1] == shape[0] * min(8, shape[1]) * min(8, shape[2])
    torch.testing.assert_close(factor @ factor.mT, matrix.mT @ matrix, atol=1e-5, rtol=1e-4)


def test_of_32_by_32_they_are_means_of_sixteen() -> None:
    z = torch.randn(3, 2, 32, 32)
    torch.testing.assert_close(coarse(z), z.reshape(3, 2, 8, 4, 8, 4).mean((3, 5)).flatten(1))
    torch.testing.assert_close(coarse_factor((2, 32, 32)), torch.eye(128) / 4)


@pytest.mark.parametrize("count", [2, 3, 16])
def test_the_simplex_is_regular(count: int) -> None:
    corners = regular_simplex(count)
    gram = corners @ corners.mT
    wanted = torch.full((count, count), -1 / (count - 1)).fill_diagonal_(1)
    torch.testing.assert_close(gram, wanted, atol=1e-6, rtol=1e-5)
    apart = torch.pdist(corners)
    torch.testing.assert_close(apart, torch.full_like(apart, math.sqrt(2 * count / (count - 1))))


@pytest.mark.parametrize("shape", SHAPES)
def test_anchors_are_a_regular_simplex_of_unit_scores(shape: tuple[int, int, int]) -> None:
    factor = coarse_factor(shape)
    count = min(16, len(factor) + 1)
    z = torch.randn(400, *shape)
    q = torch.randn(400, count).softmax(1)
    anchors = fit_anchors(q, coarse(z), factor)
    scores = anchors @ factor
    wanted = torch.full((count, count), -1 / (count - 1)).fill_diagonal_(1)
    torch.testing.assert_close(scores @ scores.mT, wanted, atol=1e-4, rtol=1e-4)
    if shape == (1, 32, 32):  # where places do not overlap, the anchors themselves
        apart = torch.pdist(anchors)
        torch.testing.assert_close(apart, apart.mean().expand_as(apart))


def test_the_mean_gradient_is_stein_s() -> None:
    """Of a smooth q by autograd, and by its covariance with the latents."""
    z = torch.randn(200_000, 6, requires_grad=True)
    weights = torch.randn(6, 4)
    q = (z @ weights).softmax(1)
    gradients = torch.stack([torch.autograd.grad(q[:, k].sum(), z, retain_graph=True)[0].mean(0) for k in range(4)])
    by_stein = (q - q.mean(0)).mT @ z / len(z)
    torch.testing.assert_close(by_stein, gradients, atol=0.004, rtol=0.03)


def test_anchors_are_the_nearest_simplex() -> None:
    """A layout that is a regular simplex already is found again, in the same order, through blurred memberships."""
    factor = coarse_factor((1, 24, 24))
    turned = torch.linalg.qr(torch.randn(64, 64))[0][:7]
    truth = regular_simplex(8) @ turned
    white = torch.randn(20_000, 64)
    q = (3 * white @ truth.mT).softmax(1)
    found = fit_anchors(q, white @ factor.mT, factor) @ factor
    assert torch.nn.functional.cosine_similarity(found, truth).min() > 0.98
    # and no turn of it is nearer to the gradients: the sum of cosines is at its largest
    gradients = torch.nn.functional.normalize((q - q.mean(0)).mT @ white)
    best = (found * gradients).sum()
    for _ in range(20):
        skew = 0.1 * torch.randn(64, 64)
        assert (found @ torch.linalg.matrix_exp(skew - skew.mT) * gradients).sum() < best


@pytest.mark.parametrize("count", [4, 16])
def test_biases_give_the_cells_their_shares(count: int) -> None:
    generator = torch.Generator().manual_seed(5)
    wanted = (0.6 * torch.randn(3, count, generator=generator)).softmax(1)
    biases = fit_biases(wanted, 0)
    scores = torch.randn(2**20, count - 1, generator=generator) @ regular_simplex(count).mT
    for share, bias in zip(wanted, biases, strict=True):
        found = soft_cells(scores, bias).mean(0)
        assert ((found - share) / share).abs().max() < 0.03
        assert (found - share).abs().max() < 0.002
    alone = fit_biases(wanted[:1], 0)  # with all draws for one
    cells = soft_cells(scores, alone[0])
    # random numbers differ between kinds of processors; the fit and this test draw about as many
    error = cells.std(0) / len(cells) ** 0.5 * 2**0.5
    assert ((cells.mean(0) - wanted[0]) / error).abs().max() < 4


def test_equal_shares_need_no_biases_and_rare_cells_stay_finite() -> None:
    even = fit_biases(torch.full((1, 8), 1 / 8), 0)
    assert (even - even.mean()).abs().max() < 0.01
    rare = fit_biases(torch.tensor([[0.0, 0.5, 0.5]]), 0)
    assert rare.isfinite().all()
    scores = torch.randn(100_000, 2) @ regular_simplex(3).mT
    assert soft_cells(scores, rare[0]).mean(0)[0] < 5e-4


def test_biases_are_the_dual_of_optimal_transport() -> None:
    """At the optimum of b . wanted - eps E log sum exp((s + b) / eps), by Newton's method on fixed draws."""
    wanted = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    scores = torch.randn(100_000, 3, dtype=torch.float64) @ regular_simplex(4).double().mT
    b = torch.zeros(4, dtype=torch.float64)
    for _ in range(30):
        t = soft_cells(scores, b)
        hessian = (torch.diag(t.mean(0)) - t.mT @ t / len(t)) / SOFTNESS + 1e-9 * torch.eye(4)
        b = b + 0.7 * torch.linalg.solve(hessian, wanted - t.mean(0))
    b = b - b.mean()
    found = fit_biases(wanted[None].float(), 0)[0].double()
    torch.testing.assert_close(found - found.mean(), b, atol=0.02, rtol=0)
