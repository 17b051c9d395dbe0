from __future__ import annotations

import torch
from torch import Tensor

from gsd_cli.compute.random import latents
from gsd_cli.core.latents.lbfgs import minimise

SHAPE = (1, 4, 4)


def matrix(seed: int) -> Tensor:
    root = torch.randn(16, 16, generator=torch.Generator().manual_seed(seed))
    return root @ root.T


def test_a_quadratic_form_on_the_sphere_falls_to_its_smallest_eigenvalue() -> None:
    forms = torch.stack([matrix(0), matrix(1)])
    start = latents([0, 1], SHAPE)
    radius = start.flatten(1).norm(dim=1)

    def loss(z: Tensor) -> Tensor:
        flat = z.flatten(1)
        return torch.einsum("bi,bij,bj->b", flat, forms, flat)

    found = minimise(loss, start, 200)
    smallest = torch.linalg.eigvalsh(forms)[:, 0] * radius.square()
    torch.testing.assert_close(found.loss, smallest, rtol=0.02, atol=0.05)
    torch.testing.assert_close(found.z.flatten(1).norm(dim=1), radius)


def test_losses_never_rise_and_rows_do_not_meet() -> None:
    form = matrix(2)
    seen: list[Tensor] = []

    def loss(z: Tensor) -> Tensor:
        flat = z.flatten(1)
        return (flat @ form * flat).sum(1).sin() + flat[:, 0]

    start = latents([3, 4, 5], SHAPE)
    for steps in (1, 5, 20):
        seen.append(minimise(loss, start, steps).loss)
    assert (seen[0] <= loss(start)).all()
    assert (seen[1] <= seen[0]).all()
    assert (seen[2] <= seen[1]).all()
    alone = minimise(loss, start[1:2], 20)
    torch.testing.assert_close(alone.loss, seen[2][1:2], rtol=1e-3, atol=1e-3)


def test_a_loss_that_is_not_a_number_is_never_taken() -> None:
    def loss(z: Tensor) -> Tensor:
        value = z.flatten(1)[:, 0]
        return torch.where(value < 0, value / 0 * 0, value)

    found = minimise(loss, latents([0, 1, 2], SHAPE).abs(), 30)
    assert torch.isfinite(found.loss).all()


def test_each_part_of_a_row_keeps_its_norm() -> None:
    start = torch.stack([latents([0, 1, 2], SHAPE) * torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1, 1)])
    found = minimise(lambda z: (z[:, :, 0, 0, 0]).sum(1), start, 60, parts=3)
    norms = start[0].flatten(1).norm(dim=1)
    torch.testing.assert_close(found.z[0].flatten(1).norm(dim=1), norms)
    # each part ends at the pole that its first entry points away from
    torch.testing.assert_close(found.z[0, :, 0, 0, 0], -norms, rtol=1e-3, atol=1e-3)
