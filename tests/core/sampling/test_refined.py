"""A generator whose images the teacher refines."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from gsd_cli.base.console import Console
from gsd_cli.base.errors import UsageError
from gsd_cli.base.session import Session
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.dit import DIT
from gsd_cli.core.models.few_steps import later_noise, spread_levels
from gsd_cli.core.models.generator import Generator, Model, load_model
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.core.sampling import refined as refined_module
from gsd_cli.core.sampling.refined import RefinedGenerator, refine, refining_levels
from gsd_cli.options import SampleOptions
from tests.support import teachers


class Gaussian(Denoiser):
    """The exact denoiser of images whose pixels are independent N(mean, variance)."""

    def __init__(self, like: Denoiser, mean: float, variance: float):
        super().__init__(like.net, like.schedule)
        self.mean, self.variance = mean, variance

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition | None = None) -> Tensor:
        share = self.variance / (self.variance + sigma.reshape(-1, 1, 1, 1) ** 2)
        return self.mean + share * (x - self.mean)


def test_levels_fall_with_the_square_of_the_time_that_is_left() -> None:
    assert refining_levels(2.5, 4) == pytest.approx((0.5556, 0.2514, 0.0980, 0.0228), abs=1e-4)
    for steps in (1, 2, 7):
        levels = torch.tensor(refining_levels(2.5, steps), dtype=torch.float64)
        times = levels / (1 + levels)
        left = 1 - torch.arange(steps).double() / steps
        torch.testing.assert_close(times, times[0] * left.square())
        assert levels[0].item() == pytest.approx(spread_levels(2.5, 2)[1])


def test_two_steps_are_those_of_the_formula(toy_teacher: Denoiser) -> None:
    """DPM-Solver++(2M): the first step is of first order, the last one ends at the clean estimate."""
    base, z = Generator(toy_teacher, 2.5), torch.randn(5, 1, 16, 16)
    one, two = refining_levels(2.5, 2)
    with torch.no_grad():
        x = base(z) + one * later_noise(z, 1)
        clean = toy_teacher(x, per_image(one, z))
        x = two / one * x + (1 - two / one) * clean
        expected = toy_teacher(x, per_image(two, z))
        made = RefinedGenerator(base, toy_teacher, 2)(z)
    torch.testing.assert_close(made, expected)
    assert (made - base(z)).abs().max() > 0.05


def test_images_of_a_wrong_distribution_come_closer_to_the_teachers(toy_teacher: Denoiser) -> None:
    """The exact flow from s to 0 maps x to m + sqrt(v / (v + s^2)) (x - m)."""
    teacher, z = Gaussian(toy_teacher, 0.3, 0.2), torch.randn(400, 1, 16, 16)
    base = Generator(Gaussian(toy_teacher, 0.5, 1.5), 2.5)
    refined = RefinedGenerator(base, teacher, 32)
    level, wrong = refined.refining[0], base(z)
    exact = 0.3 + (0.2 / (0.2 + level**2)) ** 0.5 * (wrong + level * later_noise(z, 1) - 0.3)
    made = refined(z)
    assert (made - exact).abs().max() < 0.02
    assert abs(made.mean() - 0.3) < 0.7 * abs(wrong.mean() - 0.3)
    assert abs(made.var() - 0.2) < 0.5 * abs(wrong.var() - 0.2)


def test_it_is_a_generator_like_others(toy_teacher: Denoiser) -> None:
    base, z = Generator(toy_teacher, (2.5, 0.5)), torch.randn(3, 1, 16, 16)
    refined = RefinedGenerator(base, toy_teacher, 3)
    assert (refined.calls, refined.latent_shape, refined.image_shape) == (5, base.latent_shape, base.image_shape)
    torch.testing.assert_close(refined(z)[1:2], refined(z[1:2]))  # an image depends on its latent alone
    assert refined.refining == refining_levels(0.5, 3)


def test_a_guided_teacher_takes_two_calls_a_step_and_the_images_condition() -> None:
    teacher = Denoiser(teachers.dit(), BetaSchedule.linear(), kind=DIT).eval()
    guided, condition = teacher.with_guidance(3), Condition(torch.tensor([0, 2]))
    base, z = Generator(teacher, 2.5), torch.randn(2, *teacher.shape)
    refined = RefinedGenerator(base, guided, 2)
    assert (refined.calls, RefinedGenerator(base, teacher, 2).calls) == (5, 3)
    one, two = refined.refining
    with torch.no_grad():
        x = base(z, condition) + one * later_noise(z, 1)
        clean = guided.with_condition(condition)(x, per_image(one, z))
        x = two / one * x + (1 - two / one) * clean
        expected = guided.with_condition(condition)(x, per_image(two, z))
        torch.testing.assert_close(refined(z, condition), expected)


def session() -> Session:
    return Session.start(SampleOptions(), Console())


def test_the_models_own_teacher_refines() -> None:
    model = load_model("fashion")
    found, z = refine(model, 2, session()), torch.randn(2, 1, 32, 32)
    expected = RefinedGenerator(model.generator, load_teacher("ddpm-fashion").denoiser, 2)
    with torch.no_grad():
        assert torch.equal(found.generator.eval()(z), expected.eval()(z))
    assert (found.name, found.folder, model.generator.calls) == (model.name, model.folder, 1)


def test_a_teacher_that_the_generator_imitates_with_guidance_is_guided(toy_teacher: Denoiser) -> None:
    settings = {"off": 1.0, "2": 1.0, "teacher:2": 2.0}
    models = {word: Model("m", Path(), Generator(toy_teacher), {"settings": {"guidance": word}}) for word in settings}
    assert {word: model.teacher_guidance for word, model in models.items()} == settings


def test_a_guided_teacher_is_whole_on_the_generators_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its null condition too, which is no part of its weights."""
    teacher = Denoiser(teachers.dit(), BetaSchedule.linear(), kind=DIT).eval()
    generator = Generator(Denoiser(teachers.dit(), BetaSchedule.linear(), kind=DIT).to("meta"))
    monkeypatch.setattr(refined_module, "open_teacher", lambda *_, **__: SimpleNamespace(denoiser=teacher))
    found = refine(Model("m", Path(), generator, {"teacher": "t", "settings": {"guidance": "teacher:2"}}), 2, session())
    z, condition = torch.empty(2, *teacher.shape, device="meta"), Condition(torch.tensor([0, 2], device="meta"))
    assert found.generator(z, condition).device.type == "meta"
    assert found.generator.calls == 5


def test_a_model_without_a_teacher_is_refused(toy_teacher: Denoiser) -> None:
    with pytest.raises(UsageError, match="does not name its teacher"):
        refine(Model("m", Path(), Generator(toy_teacher), {}), 4, session())
