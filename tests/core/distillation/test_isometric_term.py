"""The isometric term on linear generators, which have closed forms, and on a small network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor, nn

from gsd_cli.compute.device import full_precision
from gsd_cli.core.distillation.cells import Cells
from gsd_cli.core.distillation.clusters import Clusters
from gsd_cli.core.distillation.isometric_forms import FORMS, SEGMENTS, STEP
from gsd_cli.core.distillation.isometric_term import IsometricGradient, IsometricTerm
from gsd_cli.core.distillation.latent_pairs import LatentBatch
from gsd_cli.core.models.sphere import angle
from gsd_cli.options import DistillSettings
from tests.support.stepping import place, weigh

ALL = list(FORMS)
PLAIN = [name for name, form in FORMS.items() if form.fitted_to is None]
SHAPE = (1, 8, 8)
D = 64


def flat(images: Tensor) -> Tensor:
    return images.flatten(1)


def term(form: str, phi: Callable[[Tensor], Tensor] = flat, **settings: object) -> IsometricTerm:
    # without another term it works from the first step on
    values = {"irl": form, "sidl_weight": 0.0, **settings}
    it = IsometricTerm(DistillSettings(**values), phi, 100)
    centres = torch.eye(6, D), torch.tensor(1.0)
    fits = {"borders": Clusters(*centres), "cells": Cells(*centres, torch.eye(6, D), torch.zeros(1, 6))}
    it.fitted = fits.get(form)
    return it


def measure(form: str, generator: Callable[[Tensor], Tensor], batch: int, **settings: object) -> IsometricGradient:
    it = term(form, **settings)
    latents = place(it, torch.randn(batch, *SHAPE), 0)
    images = generator(torch.cat([latents.z, latents.extra]))
    return it.measure(images.detach().requires_grad_(True), latents)


def linear(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda z: (z.flatten(1) @ matrix.T).reshape(z.shape)


def orthogonal() -> Tensor:
    return torch.linalg.qr(torch.randn(D, D))[0]


def stretched() -> tuple[Tensor, Tensor]:
    """A map with singular values from 1 to 4, and its H = A^T A."""
    a = orthogonal() @ torch.diag(torch.linspace(1, 4, D)) @ orthogonal()
    return a, a.T @ a


@pytest.mark.parametrize("form", ["speed", "stress"])
def test_an_orthogonal_generator_is_isometric_up_to_chord_against_arc(form: str) -> None:
    it = term(form)
    latents = place(it, torch.randn(512, *SHAPE), 0)
    sphere = torch.nn.functional.normalize(latents.z.flatten(1), dim=1).reshape(latents.z.shape)
    found = it.measure(linear(3 * orthogonal())(sphere).requires_grad_(True), latents)
    # chord 2 sin(theta / 2) for arc theta: they differ by a share theta^2 / 24, and theta < 0.65
    assert found.loss < (0.65**2 / 24) ** 2
    assert found.speed_spread < 0.65**2 / 24
    # off the sphere the lengths of z and w add their own spread, 1 / sqrt(2 d) each
    assert measure(form, linear(3 * orthogonal()), 4000).speed_spread < 1.5 / math.sqrt(D)


def test_an_orthogonal_generator_has_the_smallest_jacobian_form() -> None:
    # E[(v . w)^2] of unit tangents is 1 / (d - 1): the rank of the tangent space
    found = measure("jacobian", linear(5 * orthogonal()), 16000)
    assert 1 / found.loss == pytest.approx(D - 1, rel=0.1)


def test_literal_compares_the_chord_with_the_broken_line() -> None:
    it = term("literal", tau_min=0.4, tau_max=0.4)
    latents = place(it, torch.randn(16, *SHAPE), 0)
    assert len(latents.extra) == (SEGMENTS - 1) * latents.pairs
    points = torch.cat([latents.z, latents.extra])
    p, wanted = latents.pairs, []
    for i in range(p):
        path = [points[i], *(points[16 + k * p + i] for k in range(SEGMENTS - 1)), points[p + i]]
        arc = sum((b - a).norm().item() for a, b in itertools.pairwise(path))
        wanted.append(((path[-1] - path[0]).norm().item() - arc) ** 2)
    found = it.measure(points.requires_grad_(True), latents)
    assert found.loss == pytest.approx(sum(wanted) / p, rel=1e-3)
    assert found.loss > 0


def test_straight_compares_the_chord_with_the_way_over_the_middle() -> None:
    it = term("straight", tau_min=0.3, tau_max=1.2)
    latents = place(it, torch.randn(64, *SHAPE), 0)
    p = latents.pairs
    assert (p, len(latents.z), len(latents.extra)) == (16, 64, 0)
    start, end, middle = latents.z[: 3 * p].split(p)
    torch.testing.assert_close(angle(start, end), latents.theta)
    arc, chord = [(middle[i] - start[i]).norm() + (end[i] - middle[i]).norm() for i in range(p)], end - start
    wanted = sum((arc[i] - chord[i].norm()) ** 2 for i in range(p)) / sum(arc[i] ** 2 for i in range(p))
    found = it.measure(latents.z.clone().requires_grad_(True), latents)
    assert found.loss == pytest.approx(wanted.item(), rel=1e-3)
    assert found.loss > 1e-6
    doubled = it.measure((2 * latents.z).requires_grad_(True), latents)
    assert doubled.loss == pytest.approx(found.loss.item(), rel=1e-4)


def test_straight_lets_speed_be_and_minds_turns() -> None:
    a = torch.nn.functional.normalize(torch.randn(D), dim=0)

    def seen(response: Callable[[Tensor], Tensor]) -> IsometricGradient:
        return measure("straight", lambda z: response(z.flatten(1) @ a)[:, None, None, None], 512, tau_max=1.2)

    steep, there_and_back = seen(lambda t: torch.tanh(5 * t)), seen(torch.abs)
    assert steep.speed_spread > 0.5  # uneven, and always onwards
    assert steep.loss < 1e-6  # the great circle itself turns now and then
    assert there_and_back.loss > 1e-4


def test_a_linear_generator_has_the_computed_speed_spread() -> None:
    """Var(u . H u) / E^2 = 2 (D Tr H^2 / (Tr H)^2 - 1) / (D + 2) for a unit u; of log speed a quarter of it."""
    a, h = stretched()
    share = D * (h @ h).trace() / h.trace() ** 2
    wanted = (2 * (share - 1) / (D + 2)).item() / 4
    settings = {"tau_min": 0.01, "tau_max": 0.01}
    # directions of one length: what |w| adds is not the map's
    it = term("speed", **settings)
    z = torch.randn(40000, *SHAPE)
    latents = place(it, z, 0)
    p = latents.pairs
    w = latents.z[p : 2 * p] - latents.z[:p]
    unit = (w.flatten(1) / w.flatten(1).norm(dim=1, keepdim=True)).reshape(w.shape)
    even = LatentBatch(torch.cat([latents.z[:p], latents.z[:p] + 0.01 * unit]), z[:0], torch.full((p,), 0.01))
    found = it.measure(linear(a)(even.z).requires_grad_(True), even)
    assert found.loss == pytest.approx(wanted, rel=0.1)
    assert found.speed_spread == pytest.approx(math.sqrt(wanted), rel=0.1)


def test_a_linear_generator_has_the_computed_jacobian_form() -> None:
    a, h = stretched()
    wanted = ((h @ h).trace() / h.trace() ** 2).item()
    found = measure("jacobian", linear(a), 40000)
    assert found.loss == pytest.approx(wanted, rel=0.08)
    assert found.loss > 1.2 / D  # an isometric one would have 1 / D


def test_stress_is_the_formula_with_the_best_scale() -> None:
    rho, theta = torch.rand(2, 50, dtype=torch.float64) + 0.1
    scales = torch.linspace(0.01, 5, 20000, dtype=torch.float64)
    best = ((scales[:, None] * theta - rho).square().sum(1) / rho.square().sum()).min()
    from gsd_cli.core.distillation.isometric_forms import stress_loss

    assert stress_loss(rho, theta).mean().item() == pytest.approx(best.item(), rel=1e-5)
    torch.testing.assert_close(stress_loss(7 * rho, theta), stress_loss(rho, theta))


@pytest.mark.parametrize("form", ALL)
def test_gradients_are_not_zero_and_match_finite_differences(form: str) -> None:
    # the trap of the released code: directional derivatives without a graph have no gradient
    features = torch.randn(FORMS[form].point_count, 3, 6, dtype=torch.float64, requires_grad=True)
    said = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    if form == "cells":
        said = torch.randn(3, 6, dtype=torch.float64).softmax(1)
    assert torch.autograd.gradcheck(lambda f: FORMS[form].compare(f, said)[0].mean(), features, atol=1e-6)
    assert measure(form, linear(stretched()[0]), 16).gradient.norm() > 1e-6


def test_stress_holds_its_scale_fixed_in_the_gradient() -> None:
    # at the best scale the derivative through it vanishes: finite differences cannot tell, autograd must not need it
    from gsd_cli.core.distillation.isometric_forms import stress_loss

    rho, theta = torch.rand(2, 9, dtype=torch.float64) + 0.1
    rho.requires_grad_(True)
    (gradient,) = torch.autograd.grad(stress_loss(rho, theta).mean(), rho)
    a = ((rho * theta).sum() / theta.square().sum()).item()
    total = rho.detach().square().sum()
    numerator = (a * theta - rho.detach()).square().sum()
    wanted = -2 * (a * theta - rho.detach()) / total - numerator * 2 * rho.detach() / total**2
    torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("form", ALL)
def test_identical_images_leave_the_gradient_finite(form: str) -> None:
    found = measure(form, lambda z: 0 * z, 16)
    assert math.isfinite(found.loss)
    assert found.gradient.isfinite().all()


def anisotropy(form: str, net: nn.Module) -> float:
    """The form's own figure without its scale: for `literal` how much longer paths are than chords."""
    generator = torch.Generator().manual_seed(9)
    z = torch.randn(2048, *SHAPE, generator=generator)
    it = term(form, seed=5)
    latents = place(it, z, 0)
    with torch.no_grad():
        images = net(torch.cat([latents.z, latents.extra]))
    if form != "literal":
        return it.measure(images.requires_grad_(True), latents).loss
    p = latents.pairs
    chord = (images[p : 2 * p] - images[:p]).norm(dim=1)
    path = torch.cat([images[:p], images[len(z) :], images[p : 2 * p]]).reshape(SEGMENTS + 1, p, -1)
    return ((path[1:] - path[:-1]).norm(dim=2).sum(0) / chord - 1).mean().item()


@pytest.mark.parametrize("form", PLAIN)
def test_training_a_small_network_lowers_its_own_anisotropy(form: str) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(D, 64), nn.Tanh(), nn.Linear(64, 32))
    with torch.no_grad():  # an image in which few things change fast and most hardly
        net[3].weight.mul_(torch.logspace(-2, 1, 32)[:, None])
    before = anisotropy(form, net)
    it, adam = term(form), torch.optim.Adam(net.parameters(), 3e-3)
    for step in range(400):
        latents = place(it, torch.randn(64, *SHAPE), step)
        y = net(torch.cat([latents.z, latents.extra]))
        found = it.measure(y.detach().requires_grad_(True), latents)
        adam.zero_grad()
        y.backward(found.gradient)
        adam.step()
    after = anisotropy(form, net)
    assert after < (0.9 if form == "literal" else 0.5) * before


@pytest.mark.parametrize("form", ALL)
def test_every_latent_is_standard_normal(form: str) -> None:
    latents = place(term(form), torch.randn(512, *SHAPE), 3)
    assert latents.z.shape == (512, *SHAPE)
    for z in (latents.z, latents.extra):
        if not len(z) or form == "jacobian":
            continue
        assert kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
        # a pair's members are as long as independent latents are: chi-squared with D degrees
        assert kstest(z.flatten(1).square().sum(1).numpy(), "chi2", args=(D,)).pvalue > 1e-3
    if form == "jacobian":  # points on z's own sphere
        z, p = latents.z[: latents.pairs], latents.pairs
        torch.testing.assert_close(latents.extra.flatten(1).norm(dim=1), z.flatten(1).norm(dim=1).repeat(4))
        assert len(latents.extra) == 4 * p
        torch.testing.assert_close(angle(latents.extra[:p], latents.extra[p : 2 * p]), torch.full((p,), 2 * STEP))


def test_angles_are_log_uniform_and_the_others_independent() -> None:
    latents = place(term("speed"), torch.randn(4096, *SHAPE), 0)
    p = latents.pairs
    assert p == 1024
    torch.testing.assert_close(latents.theta, angle(latents.z[:p], latents.z[p : 2 * p]))
    # independent latents of 64 dimensions are within pi/2 +- 0.13: theta is tau to a few per cent
    assert latents.theta.min() > 0.035
    assert latents.theta.max() < 0.7
    assert latents.theta.log().mean().item() == pytest.approx((math.log(0.05) + math.log(0.5)) / 2, abs=0.08)
    assert angle(latents.z[2048:3072], latents.z[3072:]).mean().item() == pytest.approx(math.pi / 2, abs=0.02)


@pytest.mark.parametrize(("batch", "pairs"), [(1, 0), (2, 1), (4, 2), (8, 2), (64, 16)])
def test_small_batches_have_pairs_to_compare(batch: int, pairs: int) -> None:
    latents = place(term("speed"), torch.randn(batch, *SHAPE), 0)
    assert latents.pairs == pairs
    assert len(latents.z) == batch


@pytest.mark.parametrize(("every", "pairs"), [(2, 32), (3, 21), (64, 2)])
def test_one_image_in_so_many_gets_a_neighbour(every: int, pairs: int) -> None:
    latents = place(term("speed", pair_every=every), torch.randn(64, *SHAPE), 0)
    assert (latents.pairs, len(latents.z)) == (pairs, 64)


def test_random_latents_are_a_function_of_seed_and_step() -> None:
    z = torch.randn(16, *SHAPE)
    once, again = place(term("literal"), z, 7), place(term("literal"), z, 7)
    assert torch.equal(once.z, again.z)
    assert torch.equal(once.extra, again.extra)
    assert not torch.equal(once.z, place(term("literal"), z, 8).z)
    assert torch.equal(once.z[2 * once.pairs :], z[2 * once.pairs :])


def test_the_term_works_in_float32_whatever_the_precision_outside() -> None:
    seen = []

    def phi(images: Tensor) -> Tensor:
        seen.append((images.dtype, torch.is_autocast_enabled("cpu"), torch.get_float32_matmul_precision()))
        seen.append(torch.backends.cudnn.allow_tf32)
        return images.flatten(1) @ torch.eye(D)

    it = term("speed", phi)
    latents = place(it, torch.randn(8, *SHAPE), 0)
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            it.measure(latents.z.bfloat16().requires_grad_(True), latents)
            assert torch.is_autocast_enabled("cpu")
        assert seen == [(torch.float32, False, "highest"), False]
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.backends.cudnn.allow_tf32
        with pytest.raises(ValueError, match="x"), full_precision(torch.device("cpu")):
            raise ValueError("x")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_every_kth_step_has_its_turn_with_its_weight_scaled() -> None:
    it = IsometricTerm(DistillSettings(irl_weight=0.5, irl_every=3), flat, 10)
    assert [weigh(it, 1.0, 1.0, step) for step in range(10)] == pytest.approx([0, 0, 1.5, 0, 0, 1.5, 0, 0, 1.5, 0])
    assert [place(it, torch.randn(8, *SHAPE), step).pairs for step in range(6)] == [0, 0, 2, 0, 0, 2]


def weights(**settings: object) -> list[float]:
    """The weights of a run of 100 steps whose gradients have one norm: the schedule alone."""
    it = term("speed", sidl_weight=1.0, irl_ratio=2.0, **settings)
    return [weigh(it, 1.0, 1.0, step) for step in range(100)]


def test_the_term_rises_and_stays() -> None:
    found = weights()
    assert found[:11] == [0.0] * 11
    assert found[11:21] == pytest.approx([0.2 * k for k in range(1, 11)])
    assert found[20:] == pytest.approx([2.0] * 80)


def test_a_term_that_is_alone_works_at_once() -> None:
    it = term("speed")
    assert [weigh(it, 0.0, 1.0, step) for step in (0, 49, 99)] == [1.0, 1.0, 1.0]
