"""Gradients along the generator's own images, on maps whose Jacobian is known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gsd_cli.compute.distributed import World
from gsd_cli.core.distillation.isometric_term import IsometricGradient
from gsd_cli.core.distillation.manifold_gradient import STEP, along_manifold
from gsd_cli.core.distillation.step import Batch, Distillation
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.options import DistillSettings

SHAPE = (1, 4, 4)
CPU = torch.device("cpu")


@pytest.fixture
def matrix() -> Tensor:
    return torch.linalg.qr(torch.randn(16, 16))[0] @ torch.diag(torch.linspace(0, 3, 16)) @ torch.randn(16, 16)


def test_of_a_linear_generator_it_is_a_a_transposed(matrix: Tensor) -> None:
    z, gradient = torch.randn(2, 6, *SHAPE).double()
    a = matrix.double()
    found = along_manifold(lambda z, _: (z.flatten(1) @ a.T).reshape(z.shape), z, gradient)
    back = gradient.flatten(1) @ a
    wanted = STEP * (back @ a.T) / back.square().mean().sqrt()
    torch.testing.assert_close(found.flatten(1), wanted)


def test_scaled_it_is_the_product_itself(matrix: Tensor) -> None:
    z, gradient = torch.randn(2, 6, *SHAPE).double()
    a = matrix.double()
    for size in (1e-6, 1.0):
        found = along_manifold(lambda z, _: (z.flatten(1) @ a.T).reshape(z.shape), z, size * gradient, scaled=True)
        torch.testing.assert_close(found.flatten(1), size * (gradient.flatten(1) @ a) @ a.T)


def test_what_no_latent_can_make_is_left_out() -> None:
    # images have a bright left half alone: a gradient in the right one cannot be followed
    mask = torch.zeros(SHAPE)
    mask[..., :2] = 1
    z, gradient = torch.randn(2, 6, *SHAPE)
    found = along_manifold(lambda z, _: mask * z.tanh(), z, gradient)
    assert torch.equal(found, mask * found)
    assert (found * gradient).sum() > 0  # downhill for the loss all the same
    assert torch.equal(along_manifold(lambda z, _: mask * z, z, (1 - mask) * gradient), torch.zeros_like(z))


def test_of_a_curved_generator_it_is_the_derivative_to_first_order() -> None:
    generator = lambda z, _: torch.sin(z) + 0.1 * z.square()  # noqa: E731
    z, gradient = torch.randn(2, 64, *SHAPE).double()
    jacobian = z.cos() + 0.2 * z
    back = jacobian * gradient
    wanted = jacobian * back * STEP / back.square().mean().sqrt()
    found = along_manifold(generator, z, gradient)
    assert (found - wanted).norm() < 2 * STEP * wanted.norm()


def restricted(task: Distillation, batch: Batch) -> IsometricGradient:
    term = task.isometric.measure(batch.images.detach(), batch.latents)
    return task.isometric.restrict(term, batch.latents, batch.condition, task.generator)


class Half(World):
    """One of two processes; the other's sum of squares is known."""

    def __init__(self, other: float):
        super().__init__()
        self.other, self.size = other, 2

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor + self.other


def test_parts_and_processes_have_one_scale(matrix: Tensor) -> None:
    z, gradient = torch.randn(2, 6, *SHAPE).double()
    linear = lambda z, _: (z.flatten(1) @ matrix.double().T).reshape(z.shape)  # noqa: E731
    whole = along_manifold(linear, z, gradient)
    torch.testing.assert_close(along_manifold(linear, z, gradient, chunk=4), whole)
    other = (gradient[3:].flatten(1) @ matrix.double()).square().sum().item()
    torch.testing.assert_close(along_manifold(linear, z[:3], gradient[:3], world=Half(other)), whole[:3])


def test_classes_go_with_their_latents() -> None:
    z, gradient = torch.randn(2, 4, *SHAPE)
    labels = torch.tensor([0, 1, 2, 3])
    times = lambda z, condition: z * condition.classes.reshape(-1, 1, 1, 1)  # noqa: E731
    found = along_manifold(times, z, gradient, Condition(labels), chunk=3)
    assert torch.equal(found[0], torch.zeros(SHAPE))
    assert (found[1:].flatten(1).norm(dim=1) > 0).all()


@pytest.mark.parametrize("form", ["stress", "straight", "literal", "jacobian"])
def test_the_distillation_adds_what_it_was_given(toy_teacher: Denoiser, form: str) -> None:
    def task(gradient: str) -> Distillation:
        settings = DistillSettings(batch_size=8, irl=form, irl_gradient=gradient)
        return Distillation(toy_teacher, settings, 1, CPU, lambda *_: {})

    free, bounded = task("free"), task("manifold")
    batch = free._generate(1)
    plain, along = restricted(free, batch), restricted(bounded, batch)
    assert (plain.loss, plain.speed_spread) == (along.loss, along.speed_spread)
    looked_at = plain.gradient.flatten(1).norm(dim=1) > 0
    assert torch.equal(along.gradient.flatten(1).norm(dim=1) > 0, looked_at)
    assert not torch.allclose(along.gradient, plain.gradient)
    assert bounded.generator.training
    assert all(p.grad is None for p in bounded.generator.parameters())


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_a_given_weight_weighs_the_gradient_itself(toy_teacher: Denoiser, weight: float) -> None:
    """Not a vector of arbitrary length: twice the loss's gradient is twice what the weight multiplies."""
    settings = DistillSettings(batch_size=8, irl="literal", irl_gradient="manifold", irl_weight=weight)
    task = Distillation(toy_teacher, settings, 1, CPU, lambda *_: {})
    batch = task._generate(1)
    term = task.isometric.measure(batch.images.detach(), batch.latents)
    once, twice = (
        task.isometric.restrict(
            replace(term, gradient=k * term.gradient), batch.latents, batch.condition, task.generator
        ).gradient
        for k in (1, 2)
    )
    assert once.norm() > 0
    assert twice.norm() / once.norm() == pytest.approx(2, rel=1e-2)
    free = task.isometric.settings.model_copy(update={"irl_weight": "auto"})
    task.isometric.settings = free  # the automatic weight divides by the length, which is then the same for both
    once, twice = (
        task.isometric.restrict(
            replace(term, gradient=k * term.gradient), batch.latents, batch.condition, task.generator
        ).gradient
        for k in (1, 2)
    )
    torch.testing.assert_close(once, twice, rtol=1e-3, atol=1e-6)


def test_recomputed_activations_give_the_same(toy_teacher: Denoiser) -> None:
    def gradient(**settings: object) -> Tensor:
        values = DistillSettings(batch_size=8, irl_gradient="manifold", **settings)
        task = Distillation(toy_teacher, values, 1, CPU, lambda *_: {})
        batch = task._generate(1)
        return restricted(task, batch).gradient

    torch.testing.assert_close(gradient(recompute=True), gradient(), rtol=1e-4, atol=1e-6)


def test_dropout_is_not_taken_for_movement(toy_teacher: Denoiser) -> None:
    settings = DistillSettings(batch_size=8, irl_gradient="manifold", dropout=0.5)
    task = Distillation(toy_teacher, settings, 1, CPU, lambda *_: {})
    batch = task._generate(1)
    once, again = restricted(task, batch), restricted(task, batch)
    assert torch.equal(once.gradient, again.gradient)
