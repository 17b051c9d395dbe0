"""How the fake score's estimate is made: closed forms, and what becomes of a network's error."""

from __future__ import annotations

import pytest
import torch

from gsd_cli.core.distillation.fake_score import Preconditioning, build_preconditioning
from gsd_cli.core.distillation.losses import fake_score_loss
from gsd_cli.core.distillation.noise_levels import build_recipe
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.models.beta_schedule import OUTPUTS, BetaSchedule
from gsd_cli.core.models.condition import UNCONDITIONAL
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.options import DistillSettings
from tests.support import teachers
from tests.support.stepping import GOOD, run_step

CPU = torch.device("cpu")
LEVELS = torch.tensor([0.01, 0.1, 0.5, 2.0, 20.0])


def made(prediction: str = "epsilon", kind: str = "bounded") -> tuple[Denoiser, Preconditioning]:
    teacher = Denoiser(teachers.unet(teachers.SMALL), BetaSchedule.linear(), prediction)
    settings = DistillSettings(fake_score=kind)
    return teacher, build_preconditioning(settings, teacher, build_recipe(settings, teacher.schedule))


@pytest.mark.parametrize("prediction", OUTPUTS)
def test_amplification_is_that_of_the_network(prediction: str) -> None:
    """Measured: the clean estimate's change when the last bias rises by one."""
    teacher, _ = made(prediction)
    x, sigma = torch.randn(len(LEVELS), *teacher.shape), LEVELS
    with torch.no_grad():
        before = teacher(x, sigma)
        teacher.net.conv_out.bias += 1
        moved = (teacher(x, sigma) - before).flatten(1)
    torch.testing.assert_close(moved.abs().mean(1), teacher.amplification(sigma), rtol=1e-3, atol=1e-4)
    assert (moved.std(1) < 1e-3 * LEVELS.clamp(min=1)).all()


@pytest.mark.parametrize("prediction", OUTPUTS)
def test_an_error_of_the_network_is_bounded(prediction: str) -> None:
    """By half the data's standard deviation at any noise, and by the noise itself where it is low."""
    teacher, fake = made(prediction)
    f = torch.randn(len(LEVELS), *teacher.shape)
    error = teacher.amplification(LEVELS).reshape(-1, 1, 1, 1).expand_as(f)
    moved = (fake.estimate(f, f + error, LEVELS) - f).flatten(1)[:, 0]
    torch.testing.assert_close(moved, LEVELS * 0.5 / (LEVELS**2 + 0.25).sqrt())
    assert (moved < torch.minimum(LEVELS, torch.tensor(0.5))).all()
    # a loss that is the same at all levels for one error
    losses = fake_score_loss(f, fake.estimate(f, f + error, LEVELS), fake.weight(LEVELS))
    torch.testing.assert_close(losses, torch.full_like(losses, f[0].numel()), rtol=1e-4, atol=0)


def test_plain_is_the_network_with_the_recipes_weight() -> None:
    _, fake = made(kind="plain")
    f, g = torch.zeros(5, 1, 4, 4), torch.randn(5, 1, 4, 4)
    assert torch.equal(fake.estimate(f, g, LEVELS), g)
    torch.testing.assert_close(fake.weight(LEVELS), LEVELS**-2)


def make(teacher: Denoiser, **settings: object) -> Distillation:
    values = {"batch_size": 8, "precision": "fp32", "irl": "off", **settings}
    return Distillation(teacher, DistillSettings(**values), 8, CPU, lambda *_: {})


def test_it_begins_as_the_teacher_and_a_distillation_uses_it(toy_teacher: Denoiser) -> None:
    plain, bounded = make(toy_teacher, fake_score="plain"), make(toy_teacher)
    images = torch.randn(8, *toy_teacher.shape)
    # both networks are the teacher's copy: no difference yet, and no gradient but rounding
    for task in (plain, bounded):
        assert task.score_identity.measure(images, UNCONDITIONAL, 0).gradient.norm() < 1e-3
    with torch.no_grad():
        for task in (plain, bounded):
            task.fake_score.network.net.conv_out.bias += 0.1
    wide, narrow = (
        task.score_identity.measure(images, UNCONDITIONAL, 0).gradient.flatten(1).norm(dim=1)
        for task in (plain, bounded)
    )
    assert (narrow < wide).all()
    loss, _ = bounded.fake_score.update(images, UNCONDITIONAL, GOOD, "fake", 0, 0)
    x = images + bounded.draws.normal("fake", 0, 0, "noise") * (
        sigma := bounded.draws.sigma(bounded.recipe.fake_sigma, "fake", 0, 0)
    ).reshape(-1, 1, 1, 1)
    again = make(toy_teacher)
    with torch.no_grad():
        again.fake_score.network.net.conv_out.bias += 0.1
        f, g = again.teacher(x, sigma), again.fake_score.network(x, sigma)
        how = again.fake_score.preconditioning
        wanted = fake_score_loss(images, how.estimate(f, g, sigma), how.weight(sigma)).mean()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-4)


def test_micro_batches_change_nothing(toy_teacher: Denoiser) -> None:
    whole, parts = make(toy_teacher), make(toy_teacher, micro_batch=3)
    for step in range(3):
        assert run_step(parts, step) == pytest.approx(run_step(whole, step), rel=1e-3)
