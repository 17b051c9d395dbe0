"""What benchmarks/distillation/geometry_alternatives.py puts in the place of the term."""

from __future__ import annotations

import torch

from benchmarks.distillation.geometry_alternatives import ALTERNATIVES
from benchmarks.distillation.geometry_page import ALTERNATIVE_FORMS
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.sphere import angle
from gsd_cli.options import DistillSettings


def test_every_alternative_has_a_name_on_the_page() -> None:
    assert set(ALTERNATIVES) == set(ALTERNATIVE_FORMS)


def flat(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1)


def task_of(form: str, teacher: Denoiser) -> Distillation:
    settings = DistillSettings(irl="speed", batch_size=8, sidl_weight=0.0)
    return ALTERNATIVES[form](teacher, settings, 4, torch.device("cpu"), lambda *_: {}, flat)


def test_apart_leaves_the_batch_alone(toy_teacher: Denoiser) -> None:
    task = task_of("apart", toy_teacher)
    z = torch.randn(8, *toy_teacher.shape)
    latents = task.isometric.make_pairs(z, task.draws, 1)
    assert torch.equal(latents.z, z)
    assert (latents.pairs, len(latents.extra)) == (8, 8)
    torch.testing.assert_close(latents.theta, angle(z, latents.extra))
    assert latents.theta.max() < 0.8
    found = task.isometric.measure(torch.cat([z, latents.extra]), latents)
    assert (found.gradient.flatten(1).norm(dim=1) > 0).all()
    assert task.step(1)["irl_loss"] > 0
