"""Whether an image is of the model's kind: distances in closed form, and images that are not garments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gsd_cli.base.storage import ASSETS
from gsd_cli.core.latents.domain import (
    MARGIN,
    QUANTILE,
    SAMPLES,
    domain_distances,
    read_sample_features,
    sample_features,
)
from gsd_cli.core.latents.inversion import encoder_features
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import Generator, load_model
from gsd_cli.data.dataset import ImageArchive


def flat(images: Tensor) -> Tensor:
    return images.flatten(1)


def test_a_distance_is_that_to_the_nearest_sample_in_units_of_the_samples_own() -> None:
    own = torch.arange(10.0)[:, None] ** 2  # 0, 1, 4, 9 ...: the nearest of each is 1, 1, 3, 5 ... away
    between = torch.tensor([1.0, 1, 3, 5, 7, 9, 11, 13, 15, 17])
    unit = MARGIN * np.quantile(between.numpy(), QUANTILE)
    images = torch.tensor([4.0, -2.0, 81.5]).reshape(3, 1, 1, 1)
    assert domain_distances(images, own, flat, batch_size=2) == pytest.approx([0, 2 / unit, 0.5 / unit], rel=1e-4)


def test_what_the_bundled_generator_does_not_make_is_far_from_it() -> None:
    """The warning of docs/results/editing.md: garments are near, whatever their inversion; noise and boards are far."""
    generator = load_model("fashion").generator.eval().requires_grad_(False)
    features = encoder_features(generator)
    own = sample_features(generator, features, 64)
    y, x = np.mgrid[:32, :32]
    boards = torch.stack([torch.tensor((y // p + x // p) % 2, dtype=torch.float32)[None] * 2 - 1 for p in (2, 8, 16)])
    noise = torch.rand(3, 1, 32, 32) * 2 - 1
    assert min(domain_distances(torch.cat([boards, noise]), own, features)) > 1
    images = ImageArchive(ASSETS / "fashion-mnist.zip").batch(torch.arange(50))
    near = domain_distances(images, own, features)
    assert sum(distance > 1 for distance in near) <= 3  # 1 % of held-out garments
    assert min(domain_distances(-images[:8], own, features)) > 1


def test_the_samples_are_computed_once_for_a_model(tmp_path: Path, toy_teacher: Denoiser) -> None:
    generator = Generator(toy_teacher).eval().requires_grad_(False)
    features = encoder_features(generator)
    first = read_sample_features(generator, features, "mark", tmp_path, 64)
    assert first.shape[0] == SAMPLES
    torch.testing.assert_close(first, sample_features(generator, features, 48), rtol=2e-3, atol=2e-3)
    path = tmp_path / "domain" / "mark.safetensors"

    def never(images: Tensor) -> Tensor:
        raise AssertionError("computed again")

    torch.testing.assert_close(read_sample_features(generator, never, "mark", tmp_path, 64), first, rtol=0, atol=0)
    path.write_bytes(path.read_bytes()[:100])  # a damaged entry is replaced
    torch.testing.assert_close(read_sample_features(generator, features, "mark", tmp_path, 64), first)
    assert path.stat().st_size > 1000
