from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gsd_cli.compute.random import latents
from gsd_cli.core.latents.walks import cross_fade, energy, step_lengths, unevenness, walk

SHAPE = (1, 8, 8)


def pixels(z: Tensor, _s: Tensor) -> Tensor:
    return z


def embed(images: Tensor) -> Tensor:
    return images.flatten(1)


def hurried(z: Tensor, _s: Tensor) -> Tensor:
    """A generator whose images change fast in one place: cubed amplitudes."""
    return z**3


@pytest.mark.parametrize("path", ["lerp", "slerp", "uniform", "geodesic"])
def test_ends_are_the_given_latents(path: str) -> None:
    a, b = latents([0, 1], SHAPE)
    found = walk(a, b, 7, path, hurried, embed, geodesic_steps=5)
    torch.testing.assert_close(found.z[0], a, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.z[-1], b, atol=1e-5, rtol=1e-5)
    assert len(found.images) == 7
    assert len(found.steps) == 6
    assert found.s[0] == 0
    assert found.s[-1] == 1


def test_slerp_of_equal_norms_is_even_in_the_latent() -> None:
    a, b = latents([0, 1], SHAPE)
    found = walk(a, b * a.norm() / b.norm(), 9, "slerp", pixels, embed)
    assert found.unevenness == pytest.approx(1, abs=1e-4)


def test_uniform_evens_out_what_slerp_does_not() -> None:
    a, b = latents([0, 1], SHAPE)
    plain = walk(a, b, 12, "slerp", hurried, embed)
    even = walk(a, b, 12, "uniform", hurried, embed)
    assert plain.unevenness > 1.15
    assert even.unevenness < 1.02


def test_uniform_follows_a_curve_of_known_speed() -> None:
    a, b = torch.zeros(SHAPE), torch.zeros(SHAPE)
    a[0, 0, 0], b[0, 0, 1] = 8.0, 8.0

    def squared(z: Tensor, _s: Tensor) -> Tensor:
        angle = torch.atan2(z[:, 0, 0, 1], z[:, 0, 0, 0])  # the length at share s of the way is s^2
        return (angle / (torch.pi / 2)).square().reshape(-1, 1, 1, 1)

    found = walk(a, b, 5, "uniform", squared, embed)
    torch.testing.assert_close(found.s, torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]).sqrt(), atol=5e-3, rtol=0)


def test_a_geodesic_has_less_energy_and_stays_on_the_sphere() -> None:
    a, b = latents([0, 1], SHAPE)
    plain = walk(a, b, 9, "uniform", hurried, embed)
    short = walk(a, b, 9, "geodesic", hurried, embed, geodesic_steps=40)
    assert energy(short.images, embed) < 0.95 * energy(plain.images, embed)
    norms = plain.z.flatten(1).norm(dim=1)
    torch.testing.assert_close(short.z.flatten(1).norm(dim=1), norms, rtol=1e-4, atol=1e-3)
    # the energy bounds the squared length from above
    assert energy(short.images, embed).item() >= short.length**2 * (1 - 1e-5)


def test_the_geodesic_of_the_identity_is_the_great_circle() -> None:
    a, b = latents([0, 1], SHAPE)
    b = b * a.norm() / b.norm()
    circle = walk(a, b, 6, "slerp", pixels, embed)
    found = walk(a, b, 6, "geodesic", pixels, embed, geodesic_steps=30)
    torch.testing.assert_close(found.z, circle.z, atol=0.05, rtol=0.05)


def test_a_walk_that_goes_nowhere_has_length_zero() -> None:
    (a,) = latents([0], SHAPE)
    found = walk(a, a, 5, "uniform", pixels, embed)
    assert found.length == pytest.approx(0, abs=1e-4)
    torch.testing.assert_close(found.z[2], a, atol=1e-5, rtol=1e-5)


def test_cross_fading_mixes_pixels_in_equal_parts() -> None:
    first, last = torch.zeros(1, 4, 4), torch.ones(1, 4, 4)
    faded = cross_fade(first, last, 5)
    torch.testing.assert_close(faded[1], torch.full((1, 4, 4), 0.25))
    assert unevenness(step_lengths(faded, embed)) == pytest.approx(1)
    assert unevenness(torch.zeros(3)) == 1
