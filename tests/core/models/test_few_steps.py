"""A generator of several steps: its levels, its later noise, its images, its folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gsd_cli.base.errors import GsdError
from gsd_cli.compute.random import latents
from gsd_cli.core.latents.inversion import encoder_features, invert
from gsd_cli.core.latents.render import record_bottleneck, render
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.few_steps import later_noise, spread_levels
from gsd_cli.core.models.generator import Generator, load_model, save_generator

LEVELS = spread_levels(2.5, 4)
FIRST, SECOND = [2.0, 3.0, -4.0, -7.0, -5.0, -6.0, 8.0, -1.0], [6.0, 7.0, -1.0, 2.0, 3.0, -4.0, 5.0, -8.0]
"""`later_noise` of 1 to 8."""


def test_levels_have_evenly_spaced_times() -> None:
    for steps in (1, 2, 4, 8):
        levels = torch.tensor(spread_levels(2.5, steps), dtype=torch.float64)
        times = levels / (1 + levels)
        torch.testing.assert_close(times, times[0] * torch.arange(steps, 0, -1).double() / steps)
    assert spread_levels(80.0, 1) == (80.0,)


def test_later_noise_is_orthogonal_and_as_good_as_independent() -> None:
    z = torch.randn(3, 2, 16, 16)
    first, second = later_noise(z, 1), later_noise(z, 2)
    for noise in (first, second):
        assert torch.equal(noise.abs().flatten(1).sort(1).values, z.abs().flatten(1).sort(1).values)
        assert torch.equal(later_noise(2 * z[1:2], 1), 2 * first[1:2])  # linear, and the same for all images
    for one, other in ((z, first), (z, second), (first, second)):
        assert abs(torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]) < 0.15
    # Gram matrices of orthogonal maps are those of the latents: angles are kept
    torch.testing.assert_close(first.flatten(1) @ first.flatten(1).T, z.flatten(1) @ z.flatten(1).T)


def test_later_noise_never_changes() -> None:
    """Other numbers would change the images of every generator of several steps."""
    z = torch.arange(1.0, 9.0).reshape(1, 2, 2, 2)
    assert later_noise(z, 1).flatten().tolist() == FIRST
    assert later_noise(z, 2).flatten().tolist() == SECOND


def test_images_are_those_of_the_formula(toy_teacher: Denoiser) -> None:
    generator, z = Generator(toy_teacher, LEVELS), torch.randn(5, 1, 16, 16)
    with torch.no_grad():
        x = toy_teacher(LEVELS[0] * z, per_image(LEVELS[0], z))
        first = x
        for step, level in enumerate(LEVELS[1:], 1):
            x = toy_teacher(x + level * later_noise(z, step), per_image(level, z))
        assert torch.equal(generator(z), x)
        assert (x - first).abs().max() > 0.1
    assert generator.calls == 4


def test_an_image_moves_as_its_latent_moves(toy_teacher: Denoiser) -> None:
    """The gradient goes through all calls: a finite difference along a direction agrees with it."""
    generator = Generator(toy_teacher, LEVELS).double()
    z = torch.randn(1, 1, 16, 16, dtype=torch.float64, requires_grad=True)
    direction = torch.randn_like(z)
    (slope,) = torch.autograd.grad(generator(z).square().mean(), z)
    with torch.no_grad():
        ahead, behind = (generator(z + step * direction).square().mean() for step in (1e-5, -1e-5))
    assert (slope * direction).sum().item() == pytest.approx((ahead - behind).item() / 2e-5, rel=1e-4)


def test_a_folder_keeps_the_levels(toy_teacher: Denoiser, tmp_path: Path) -> None:
    z = torch.randn(2, 1, 16, 16)
    for steps, version in ((1, 1), (4, 2)):
        generator, folder = Generator(toy_teacher, spread_levels(2.5, steps)).eval(), tmp_path / str(steps)
        save_generator(generator, folder, {"kind": "generator"}, "# A toy\n", half=False)
        card = json.loads((folder / "gsd.json").read_text())
        assert (card["format"], card["sigma_init"], "sigmas" in card) == (version, 2.5, steps > 1)
        back = load_model(str(folder)).generator
        assert back.sigmas == generator.sigmas
        with torch.no_grad():
            assert torch.equal(back(z), generator(z))


@pytest.mark.parametrize(
    "damage",
    [
        {"sigmas": []}, {"sigmas": 2.5}, {"sigmas": [2.5, 3.0]}, {"sigmas": [2.5, -1.0]}, {"sigmas": [1.0, 0.5]},
        {"sigmas": [2.5, "x"]}, {"sigmas": [2.5, 0.5, 0.5]}, {"format": 4}, {"sigma_init": 0},
    ],
)  # fmt: skip
def test_damaged_levels_are_refused(toy_teacher: Denoiser, tmp_path: Path, damage: dict[str, object]) -> None:
    save_generator(Generator(toy_teacher, (2.5, 0.5)), tmp_path / "g", {}, "", half=False)
    path = tmp_path / "g" / "gsd.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | damage))
    with pytest.raises(GsdError, match=next(iter(damage))):
        load_model(str(tmp_path / "g"))


def test_edits_of_the_bottleneck_act_in_the_first_call(toy_teacher: Denoiser) -> None:
    several, one = Generator(toy_teacher, LEVELS).eval(), Generator(toy_teacher).eval()
    z = latents(range(3), several.latent_shape)
    seen: list[torch.Tensor] = []
    alone: list[torch.Tensor] = []
    with torch.no_grad():
        for generator, maps in ((several, seen), (one, alone)):
            with record_bottleneck(generator, maps):
                generator(z)
                generator(z[:1])
    assert [len(maps) for maps in seen] == [3, 1]
    assert all(torch.equal(a, b) for a, b in zip(seen, alone, strict=True))
    shift = torch.randn(3, *seen[0].shape[1:])
    x = render(one, z, shifts=shift)
    with torch.no_grad():
        for step, level in enumerate(LEVELS[1:], 1):
            x = toy_teacher(x + level * later_noise(z, step), per_image(level, z))
    torch.testing.assert_close(render(several, z, shifts=shift), x, atol=1e-5, rtol=1e-5)


def test_a_latent_is_found_for_an_image(toy_teacher: Denoiser) -> None:
    generator = Generator(toy_teacher, spread_levels(2.5, 2)).eval()
    with torch.no_grad():
        images = generator(latents([5], generator.latent_shape)).clamp(-1, 1)
    features = encoder_features(generator)
    short, long = (invert(generator, images, features, steps=steps) for steps in (1, 60))
    assert long.psnr[0] > short.psnr[0] + 3
