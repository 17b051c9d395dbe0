"""What benchmarks/geometry_levers.py puts in the place of the term, and the data of benchmarks/one_class.py."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.test_archive import write

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from geometry_levers import LEVERS
from geometry_page import EXPERIMENTS
from one_class import write_class

from gsd_cli.core.denoiser import Denoiser
from gsd_cli.core.distillation import Distillation
from gsd_cli.core.noise import angle
from gsd_cli.options import DistillSettings

THETA = torch.tensor([0.1, 0.1, 0.2])


def judged(lever: str, teacher: Denoiser, distances: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    task = LEVERS[lever](teacher, DistillSettings(irl="speed"), 4, torch.device("cpu"), lambda *_: {}, lambda x: x)
    assert task.isometric.form is not None
    features = torch.zeros(2, 3, 1)
    features[1, :, 0] = torch.tensor(distances)
    return task.isometric.form.judge(features, THETA)


def test_every_lever_has_a_name_on_the_page() -> None:
    assert set(LEVERS) == set(EXPERIMENTS)


def test_onesided_lets_slow_pairs_be(toy_teacher: Denoiser) -> None:
    losses, speed = judged("onesided", toy_teacher, [0.1, 0.4, 0.3])
    fitted = (0.01 + 0.04 + 0.06) / (0.01 + 0.01 + 0.04)
    assert torch.equal(losses > 0, torch.tensor([False, True, False]))
    assert losses[1] == pytest.approx(3 * (fitted * 0.1 - 0.4) ** 2 / (0.01 + 0.16 + 0.09))
    assert torch.allclose(speed, torch.tensor([1.0, 4.0, 1.5]))


def test_energy_is_the_squared_speed(toy_teacher: Denoiser) -> None:
    losses, _ = judged("energy", toy_teacher, [0.1, 0.4, 0.3])
    assert torch.allclose(losses, torch.tensor([1.0, 16.0, 2.25]))


def flat(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1)


def task_of(lever: str, teacher: Denoiser) -> Distillation:
    settings = DistillSettings(irl="speed", batch_size=8, sidl_weight=0.0)
    return LEVERS[lever](teacher, settings, 4, torch.device("cpu"), lambda *_: {}, flat)


def test_apart_leaves_the_batch_alone(toy_teacher: Denoiser) -> None:
    task = task_of("apart", toy_teacher)
    z = torch.randn(8, *toy_teacher.shape)
    latents = task.isometric.place(z, 1)
    assert torch.equal(latents.z, z)
    assert (latents.pairs, len(latents.extra)) == (8, 8)
    torch.testing.assert_close(latents.theta, angle(z, latents.extra))
    assert latents.theta.max() < 0.8
    found = task.isometric.measure(torch.cat([z, latents.extra]), latents)
    assert (found.gradient.flatten(1).norm(dim=1) > 0).all()
    assert task.step(1)["irl_loss"] > 0


def test_a_class_is_its_pictures_alone(tmp_path: Path) -> None:
    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1) * np.ones((1, 8, 8, 1), np.uint8)
    data = write(tmp_path / "data.zip", images, [0, 1, 0, 2, 1, 0])
    write_class(data, 0, tmp_path / "class")
    found = sorted((tmp_path / "class").iterdir())
    assert [np.asarray(Image.open(path)).max() for path in found] == [0, 2, 5]
    with pytest.raises(SystemExit, match="no pictures labelled 7"):
        write_class(data, 7, tmp_path / "none")
