"""A generator that learns its teacher's refinement."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gsd_cli.core.distillation import estimate as estimates
from gsd_cli.core.distillation.estimate import count_state, generator_passes, passes
from gsd_cli.core.distillation.refinement import KEPT, RefinementDistillation
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.dit import DIT
from gsd_cli.core.models.few_steps import later_noise, spread_levels
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.sampling.refined import RefinedGenerator, refining_levels
from gsd_cli.options import DistillSettings
from tests.support import teachers
from tests.support.stepping import run_step

CPU = torch.device("cpu")


def make(start: Generator, teacher: Denoiser, guidance: float = 1.0, **settings: object) -> RefinementDistillation:
    values = {"batch_size": 8, "precision": "fp32", "refine": 3, "beta1": 0.9, **settings}
    return RefinementDistillation(start, teacher, DistillSettings(**values), 40, CPU, measure, None, guidance)


def measure(generator: Generator, step: int) -> dict[str, float]:
    return {"step": float(step), "calls": float(generator.calls)}


def other(teacher: Denoiser) -> Generator:
    """A generator of two calls, unlike the teacher."""
    start = Generator.from_teacher(teacher, (2.5, 0.5)).eval()
    with torch.no_grad():
        for parameter in start.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return start


def weights(module: torch.nn.Module) -> list[Tensor]:
    return [value.detach().clone() for value in module.state_dict().values()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_loss_is_that_of_the_formula(toy_teacher: Denoiser) -> None:
    """Against the formula, written out call by call, for a start of two calls."""
    start = other(toy_teacher)
    task = make(start, toy_teacher)
    average = task.average.denoiser
    with torch.no_grad():
        average.net.conv_out.bias += 0.1
    network, z = task.generator.denoiser, torch.randn(8, 1, 16, 16)
    with torch.no_grad():
        network.net.conv_out.bias += 0.3  # or nothing would have to be kept
        first = start.denoiser(2.5 * z, per_image(2.5, z))
        noisy = first + 0.5 * later_noise(z, 1)
        second = start.denoiser(noisy, per_image(0.5, z))
        level = refining_levels(0.5, 3)[0]
        own = average(2.5 * z, per_image(2.5, z))
        own = average(own + 0.5 * later_noise(z, 1), per_image(0.5, z))
        last = own + level * later_noise(z, 2)
        target = RefinedGenerator(Generator(average, (2.5, 0.5)), toy_teacher, 3)(z)
        few = slice(len(z) // KEPT)
        refining = (network(last, per_image(level, z)) - target).square().mean()
        keeping = (level / 2.5) * (network(2.5 * z[few], per_image(2.5, z[few])) - first[few]).square().mean()
        again = network(noisy[few], per_image(0.5, z[few]))
        keeping = keeping + (level / 0.5) * (again - second[few]).square().mean()
        found = task._losses(z, toy_teacher.conditions)
    torch.testing.assert_close(found, torch.stack([refining, keeping]))
    assert keeping > 0.005


def test_it_has_one_call_more_at_the_level_of_the_refinement(toy_teacher: Denoiser) -> None:
    task = make(Generator(toy_teacher, 2.5), toy_teacher)
    assert task.generator.sigmas == task.average.sigmas == pytest.approx(spread_levels(2.5, 2))
    assert make(other(toy_teacher), toy_teacher).generator.sigmas == (2.5, 0.5, refining_levels(0.5, 3)[0])
    assert task.evaluate(7) == {"step": 7, "calls": 2}
    assert task.whole_average() is task.average and not task.sharded


def test_it_learns_the_refinement_and_keeps_its_calls(toy_teacher: Denoiser) -> None:
    start = other(toy_teacher)
    task, z = make(start, toy_teacher, lr=3e-2, ema_ramp=1.0, ema_half_life=8.0), torch.randn(32, 1, 16, 16)
    frozen = weights(start), weights(toy_teacher)
    with torch.no_grad():
        task.generator.denoiser.net.conv_out.bias += 1.0  # away from all that it should learn and keep
        wanted = RefinedGenerator(start, toy_teacher, 3)(z)
        before = (task.generator(z) - wanted).square().mean()
        first = start.trace(z, toy_teacher.conditions)[0].clean
        lost = (task.generator.trace(z, toy_teacher.conditions)[0].clean - first).square().mean()
    for step in range(40):
        run_step(task, step)
    with torch.no_grad():
        after = (task.average(z) - wanted).square().mean()
        kept = (task.average.trace(z, toy_teacher.conditions)[0].clean - first).square().mean()
    assert after < 0.2 * before
    assert kept < 0.2 * lost
    assert same(frozen[0], weights(start)) and same(frozen[1], weights(toy_teacher))


@pytest.mark.parametrize("settings", [{}, {"warmup": 0.1, "lr_decay": 0.5, "clip_grad": 1.0}, {"recompute": True}])
def test_a_resumed_run_is_the_uninterrupted_one(toy_teacher: Denoiser, settings: dict[str, object]) -> None:
    def fresh() -> RefinementDistillation:
        return make(other_start, toy_teacher, **settings)

    other_start = other(toy_teacher)
    whole, half = fresh(), fresh()
    for step in range(4):
        run_step(whole, step)
    for step in range(2):
        run_step(half, step)
    resumed = fresh()
    resumed.load({name: value.clone() for name, value in half.tensors().items()})
    for step in range(2, 4):
        run_step(resumed, step)
    assert same(weights(whole.average), weights(resumed.average))
    assert same(weights(whole.generator), weights(resumed.generator))


def test_micro_batches_give_the_gradient_of_the_batch(toy_teacher: Denoiser) -> None:
    """Parts of KEPT images keep as many rows as the batch does; which rows these are differs."""
    start = Generator(toy_teacher, 2.5)
    whole, parts = make(start, toy_teacher), make(start, toy_teacher, micro_batch=KEPT)
    rows = {task: run_step(task, 0)["loss"] for task in (whole, parts)}
    assert rows[whole] == pytest.approx(rows[parts], rel=1e-5)
    assert not same(weights(whole.generator), weights(start))


def test_a_guided_teacher_refines_with_the_images_condition() -> None:
    teacher = Denoiser(teachers.dit(), BetaSchedule.linear(), kind=DIT).eval()
    start = Generator.from_teacher(teacher, 2.5).eval()
    guided, plain = make(start, teacher, 3.0), make(start, teacher)
    assert guided.refined.calls == 1 + 2 * 3
    z, condition = torch.randn(4, *teacher.shape), teacher.conditions.rows(torch.tensor([0, 1, 2, 0]))
    with torch.no_grad():
        expected = RefinedGenerator(start, teacher.with_guidance(3.0), 3)(z, condition)
        assert torch.equal(guided.refined.make_clean(z, condition), expected)
        assert not torch.allclose(plain.refined.make_clean(z, condition), expected)
    assert run_step(guided, 0)["skipped"] == 0


def test_a_loss_that_is_not_finite_changes_nothing(toy_teacher: Denoiser) -> None:
    task = make(Generator(toy_teacher, 2.5), toy_teacher)
    before = weights(task.generator), weights(task.average)
    with torch.no_grad():
        toy_teacher.net.conv_out.bias += float("nan")
    assert run_step(task, 0)["skipped"] == 1
    assert same(before[0], weights(task.generator)) and same(before[1], weights(task.average))


@pytest.mark.parametrize("refining", [3, 8])
def test_its_passes_are_those_it_makes(refining: int) -> None:
    """Forward passes by a hook; a backward pass counts for two."""
    teacher = Denoiser(teachers.dit(), BetaSchedule.linear(), kind=DIT).eval()
    task = make(Generator.from_teacher(teacher, 2.5), teacher, refine=refining)
    own: list[int] = []
    frozen: list[int] = []
    others = (task.refined.denoiser.net, task.refined.teacher.net, task.start.denoiser.net)
    for networks, seen in (((task.generator.denoiser.net,), own), (others, frozen)):
        for module in networks:
            module.register_forward_pre_hook(
                lambda _m, inputs, given, seen=seen: seen.append(len((*inputs, *given.values())[0])), with_kwargs=True
            )
    run_step(task, 0)
    assert generator_passes(task.settings) == 3 * sum(own) / 8
    assert passes(task.settings) - generator_passes(task.settings) == sum(frozen) / 8


def test_its_memory_is_counted(toy_teacher: Denoiser) -> None:
    size = sum(p.numel() for p in toy_teacher.parameters())
    settings = DistillSettings(refine=3)
    trained = 4 * size * estimates.REFINEMENT_TRAINED  # generator, average, gradient, two moments
    assert count_state(toy_teacher, settings, "fp32", size, CPU) == trained + 4 * size * estimates.REFINEMENT_FROZEN
    assert count_state(toy_teacher, settings, "bf16", size, CPU) > trained + 4 * size * estimates.REFINEMENT_FROZEN
