from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.compute.random import latents
from gsd_cli.core.editing.direction import Direction
from gsd_cli.core.editing.probe import auroc, fit_probe
from gsd_cli.core.editing.response import Response, respond
from gsd_cli.core.editing.supervised import (
    Attribute,
    balance_gradients,
    calibrate,
    find_candidates,
    fit,
    gather,
    mean_gradients,
)
from tests.support.linear import linear

SHAPE = (1, 8, 8)
A, B = (v / v.norm() for v in latents([7, 8], SHAPE))


def along(vector: Tensor) -> Attribute:
    """A score that rises along one direction of the images."""
    return Attribute("planted", lambda images: (images * vector).flatten(1).sum(1), signed=True)


def in_latent(vector: Tensor) -> Tensor:
    """The direction of z that moves images along a vector."""
    return (linear().weight.T @ vector.flatten()).reshape(SHAPE)  # type: ignore[union-attr, operator]


def test_every_way_finds_a_planted_direction() -> None:
    generator, target = linear(), along(A)
    pool = gather(generator, [target], 64, 1024)
    gradients = mean_gradients(generator, [target], 64, 32)
    found = {(d.space, d.how): d for d in find_candidates(target, [], pool, gradients)}
    assert set(found) == {
        ("latent", "mean"), ("latent", "svm"), ("latent", "gradient"), ("bottleneck", "mean"), ("bottleneck", "svm"),
    }  # fmt: skip
    planted = {"latent": in_latent(A), "bottleneck": A}
    for (space, how), direction in found.items():
        cosine = (direction.vector * planted[space]).sum().item()
        assert cosine > (0.9999 if how == "gradient" else 0.9), (space, how)
        assert direction.figures["auroc"] > 0.95


def test_a_score_that_runs_the_network_itself_is_not_taken_for_a_sample() -> None:
    generator = linear()
    nosy = Attribute("nosy", lambda images: generator(images).flatten(1).sum(1), signed=False)
    assert gather(generator, [nosy], 16, 32).h.shape[0] == 32


def test_the_mean_gradient_is_the_covariance_of_score_and_latent() -> None:
    generator = linear()
    cubed = Attribute("cubed", lambda images: (images * A).flatten(1).sum(1) ** 3, signed=False)
    gradient = mean_gradients(generator, [cubed], 64, 512)["cubed"]
    # Stein: E[z s^3] = E[3 s^2] a = 3 a for a unit a
    torch.testing.assert_close(gradient, 3 * in_latent(A), atol=0.25, rtol=0)


def test_partial_leaves_other_traits_gradients_alone() -> None:
    generator = linear()
    mixed = Attribute("mixed", lambda images: (images * (A + B)).flatten(1).sum(1), signed=False)
    trait = Attribute("trait", lambda images: (images * B).flatten(1).sum(1), signed=False)
    pool = gather(generator, [mixed, trait], 64, 256)
    gradients = mean_gradients(generator, [mixed, trait], 64, 16)
    (partial,) = [d for d in find_candidates(mixed, [trait], pool, gradients) if d.how == "partial"]
    assert (partial.vector * in_latent(B)).sum().item() == pytest.approx(0, abs=1e-5)


def test_balanced_moves_the_target_alone_where_first_order_does_not() -> None:
    generator = linear()

    def place(vector: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda images: (images * vector).flatten(1).sum(1)

    # the other trait follows the cube of the target's direction: its gradient understates whole steps
    def bent(images: Tensor) -> Tensor:
        return place(B)(images) + 0.05 * place(A)(images) ** 3

    measures = {"target": place(A), "bent": bent}
    traits = [Attribute(name, score, signed=False) for name, score in measures.items()]
    gradients = mean_gradients(generator, traits, 64, 256)
    z, deviations = latents(range(64), SHAPE), {"target": 1.0, "bent": 1.0}
    base = {name: score(generator(z)) for name, score in measures.items()}
    vector = balance_gradients(generator, "target", measures, gradients, z, base, deviations, 64)
    seen = respond(generator, Direction("t", "latent", vector, 1.0, ""), z, (-1.0, 1.0), measures, deviations, 64, base)
    assert (seen.change("target")[1] - seen.change("target")[0]).mean().item() / 2 == pytest.approx(1.5, abs=0.1)
    assert (seen.change("bent")[1] - seen.change("bent")[0]).mean().item() / 2 == pytest.approx(0, abs=0.15)


def test_strength_one_is_one_standard_deviation_and_the_better_direction_comes_first() -> None:
    generator, target, trait = linear(), along(A), Attribute("trait", lambda i: (i * B).flatten(1).sum(1), signed=False)
    pool = gather(generator, [target, trait], 64, 512)
    gradients = mean_gradients(generator, [target, trait], 64, 16)
    best, other = fit(generator, target, [trait], pool, gradients, 64)
    assert {best.space, other.space} == {"latent", "bottleneck"}
    assert best.figures["success"] >= 0.9
    assert best.figures["leakage"] < 0.35
    normals = {d.space: d.normal for d in (best, other)}
    assert normals["bottleneck"] is None and normals["latent"] is not None
    torch.testing.assert_close(normals["latent"], gradients["planted"] / gradients["planted"].norm())
    seen = respond(generator, best, latents(range(50, 90), SHAPE), [1.0], {"planted": target.score}, pool.deviations())
    assert seen.change("planted").mean().item() == pytest.approx(1, abs=0.2)


def test_a_direction_that_does_nothing_is_refused_and_one_that_points_away_is_turned() -> None:
    generator, target = linear(), along(A)
    pool = gather(generator, [target], 64, 64)
    z = latents(range(8), SHAPE)
    base = target.score(generator(z))
    away = find_candidates(target, [], pool, {"planted": -in_latent(A)})[-1]
    turned = calibrate(generator, away, target, z, base, pool.deviations(), 64)
    assert turned is not None
    assert (turned.vector * in_latent(A)).sum().item() == pytest.approx(1, abs=1e-4)
    idle = find_candidates(target, [], pool, {"planted": in_latent(B - (A * B).sum() * A)})[-1]
    assert calibrate(generator, idle, target, z, base, pool.deviations(), 64) is None


def test_a_probe_tells_planted_pictures_apart_and_its_score_is_that_of_a_linear_map() -> None:
    pictures = latents(range(200), SHAPE)
    has = (pictures * A).flatten(1).sum(1) > 0

    def features(images: Tensor) -> Tensor:
        return images.flatten(1)

    probe = fit_probe(features, features(pictures[has]), features(pictures[~has]), "planted")
    assert probe.auroc > 0.9
    fresh = latents(range(500, 700), SHAPE)
    assert auroc(probe(fresh), (fresh * A).flatten(1).sum(1) > 0) > 0.9
    with pytest.raises(GsdError, match="too few"):
        fit_probe(features, features(pictures[:3]), features(pictures), "planted")


def test_a_probe_never_sees_what_it_is_judged_on() -> None:
    """Changing the held-out quarter changes the figure alone: neither scale nor weights."""
    torch.manual_seed(3)
    positive, negative = torch.randn(40, 6) + 0.5, torch.randn(60, 6)
    plain = fit_probe(lambda x: x, positive, negative, "planted")
    far = [side.clone() for side in (positive, negative)]
    for side, sign in zip(far, (-1, 1), strict=True):  # a quarter of either side; 40 is a multiple of 4
        side[3::4] = sign * 1000 * plain.weight.sign()
    changed = fit_probe(lambda x: x, *far, "planted")
    assert torch.equal(plain.weight, changed.weight) and plain.bias == changed.bias
    assert changed.auroc == 0 < plain.auroc


def test_auroc_in_closed_form() -> None:
    labels = torch.tensor([False, False, True, True])
    assert auroc(torch.tensor([1.0, 2.0, 3.0, 4.0]), labels) == 1
    assert auroc(torch.tensor([4.0, 3.0, 2.0, 1.0]), labels) == 0
    assert auroc(torch.ones(4), labels) == 0.5
    assert auroc(torch.tensor([1.0, 3.0, 2.0, 4.0]), labels) == 0.75
    assert auroc(torch.ones(4), torch.ones(4).bool()) == 0.5


def test_success_leakage_and_monotonicity_in_closed_form() -> None:
    base = {"t": torch.tensor([0.0, -1.0]), "o": torch.tensor([0.0, 0.0])}
    values = {
        "t": torch.tensor([[-2.0, -3.0], [0.0, -1.0], [2.0, 1.0]]),
        "o": torch.tensor([[1.0, -1.0], [0.0, 0.0], [1.0, 1.0]]),
    }
    seen = Response((-1.0, 0.0, 1.0), base, values, {"t": 2.0, "o": 1.0})
    assert seen.achieved("t") == 1
    assert seen.reached("t") == 1
    assert seen.monotonicity("t") == pytest.approx(1)
    assert seen.leakage("t", ["t", "o"]) == pytest.approx(0.5)  # |0| and |1| over 1 and 1
    assert seen.leakage("t", ["o"], each=True) == pytest.approx(1)
    assert seen.monotonicity("o") == pytest.approx((0.0 + 1.0) / 2, abs=1e-6)
