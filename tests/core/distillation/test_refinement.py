"""A second call that learns its teacher's refinement."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gsd_cli.base.errors import UsageError
from gsd_cli.core.distillation.costs import REFINEMENT_FROZEN, REFINEMENT_TRAINED, costs_of
from gsd_cli.core.distillation.refinement import RefinementDistillation
from gsd_cli.core.export.exported import ExportedGenerator
from gsd_cli.core.latents.pivotal_tuning import tuned_parameters
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.dit import DIT
from gsd_cli.core.models.few_steps import later_noise, spread_levels
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.sampling.refined import RefinedGenerator, refining_levels
from gsd_cli.options import DistillSettings
from tests.support import teachers
from tests.support.kinds import build_teacher, store
from tests.support.stepping import run_step

CPU = torch.device("cpu")


def make(start: Generator, teacher: Denoiser, guidance: float = 1.0, **settings: object) -> RefinementDistillation:
    values = {"batch_size": 8, "precision": "fp32", "refine": 3, "beta1": 0.9, **settings}
    return RefinementDistillation(start, teacher, DistillSettings(**values), 20, CPU, measure, None, guidance)


def measure(generator: Generator, step: int) -> dict[str, float]:
    return {"step": float(step), "calls": float(generator.calls)}


def other(teacher: Denoiser) -> Generator:
    """A generator that is not its teacher."""
    start = Generator.from_teacher(teacher, 2.5).eval()
    with torch.no_grad():
        for parameter in start.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return start


def weights(module: torch.nn.Module) -> list[Tensor]:
    return [value.detach().clone() for value in module.state_dict().values()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_loss_is_that_of_the_formula(toy_teacher: Denoiser) -> None:
    """Against the formula, written out call by call."""
    start, z = other(toy_teacher), torch.randn(8, 1, 16, 16)
    task = make(start, toy_teacher)
    with torch.no_grad():
        task.network.net.conv_out.bias += 0.3
        level = refining_levels(2.5, 3)[0]
        noisy = start.denoiser(2.5 * z, per_image(2.5, z)) + level * later_noise(z, 1)
        wanted = RefinedGenerator(start, toy_teacher, 3)(z)
        expected = (task.network(noisy, per_image(level, z)) - wanted).square().mean()
        torch.testing.assert_close(task._loss(z, toy_teacher.conditions), expected)
    assert expected > 0.01


def test_it_begins_as_the_start_and_a_call_of_the_teacher(toy_teacher: Denoiser) -> None:
    start, z = other(toy_teacher), torch.randn(3, 1, 16, 16)
    task = make(start, toy_teacher)
    assert task.average.sigmas == pytest.approx(spread_levels(2.5, 2))
    with torch.no_grad():
        level = task.average.sigmas[1]
        noisy = start(z) + level * later_noise(z, 1)
        torch.testing.assert_close(task.average(z), toy_teacher(noisy, per_image(level, z)))
    assert task.evaluate(7) == {"step": 7, "calls": 2}
    assert task.whole_average() is task.average and not task.sharded


def test_it_learns_the_refinement_and_changes_nothing_else(toy_teacher: Denoiser) -> None:
    start, z = other(toy_teacher), torch.randn(32, 1, 16, 16)
    task = make(start, toy_teacher, lr=3e-2, ema_ramp=1.0, ema_half_life=8.0)
    frozen = weights(start), weights(toy_teacher)
    with torch.no_grad():
        for network in (task.network, task.average.later):
            network.net.conv_out.bias += 1.0  # away from what it should learn
        wanted = RefinedGenerator(start, toy_teacher, 3)(z)
        before = (task.average(z) - wanted).square().mean()
    for step in range(20):
        run_step(task, step)
    with torch.no_grad():
        after = (task.average(z) - wanted).square().mean()
    assert after < 0.2 * before
    assert same(frozen[0], weights(start)) and same(frozen[1], weights(toy_teacher))


@pytest.mark.parametrize("settings", [{}, {"warmup": 0.1, "lr_decay": 0.5, "clip_grad": 1.0}, {"recompute": True}])
def test_a_resumed_run_is_the_uninterrupted_one(toy_teacher: Denoiser, settings: dict[str, object]) -> None:
    start = other(toy_teacher)
    whole, half, resumed = (make(start, toy_teacher, **settings) for _ in range(3))
    for step in range(4):
        run_step(whole, step)
    for step in range(2):
        run_step(half, step)
    resumed.load({name: value.clone() for name, value in half.tensors().items()})
    for step in range(2, 4):
        run_step(resumed, step)
    assert same(weights(whole.average), weights(resumed.average))
    assert same(weights(whole.network), weights(resumed.network))
    assert not same(weights(whole.network), weights(toy_teacher))


def test_micro_batches_give_the_gradient_of_the_batch(toy_teacher: Denoiser) -> None:
    tasks = [make(other(toy_teacher), toy_teacher, **settings) for settings in ({}, {"micro_batch": 3})]
    tasks[1].refined.denoiser.load_state_dict(tasks[0].refined.denoiser.state_dict())
    losses = [run_step(task, 0)["loss"] for task in tasks]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for p, q in zip(*(task.network.parameters() for task in tasks), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-6)


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
    before = weights(task.network), weights(task.average.later)
    with torch.no_grad():
        toy_teacher.net.conv_out.bias += float("nan")
    assert run_step(task, 0)["skipped"] == 1
    assert same(before[0], weights(task.network)) and same(before[1], weights(task.average.later))


def test_a_generator_of_two_calls_is_refused(toy_teacher: Denoiser) -> None:
    with pytest.raises(UsageError, match="that of --start makes 2"):
        make(Generator(toy_teacher, (2.5, 0.5)), toy_teacher)


@pytest.mark.parametrize("refining", [3, 8])
def test_its_passes_are_those_it_makes(refining: int) -> None:
    """Forward passes by a hook; a backward pass counts for two."""
    teacher = Denoiser(teachers.dit(), BetaSchedule.linear(), kind=DIT).eval()
    task = make(Generator.from_teacher(teacher, 2.5), teacher, refine=refining)
    own: list[int] = []
    frozen: list[int] = []
    others = (task.refined.denoiser.net, task.refined.teacher.net)
    for networks, seen in (((task.network.net,), own), (others, frozen)):
        for module in networks:
            module.register_forward_pre_hook(
                lambda _m, inputs, given, seen=seen: seen.append(len((*inputs, *given.values())[0])), with_kwargs=True
            )
    run_step(task, 0)
    assert costs_of(task.settings).generator_passes == 3 * sum(own) / 8
    assert costs_of(task.settings).passes - costs_of(task.settings).generator_passes == sum(frozen) / 8


def test_its_memory_is_counted(toy_teacher: Denoiser) -> None:
    size = sum(p.numel() for p in toy_teacher.parameters())
    settings = DistillSettings(refine=3)
    trained = 4 * size * REFINEMENT_TRAINED
    assert costs_of(settings).state_bytes(toy_teacher, "fp32", size, CPU) == trained + 4 * size * REFINEMENT_FROZEN
    assert costs_of(settings).state_bytes(toy_teacher, "bf16", size, CPU) > trained + 4 * size * REFINEMENT_FROZEN


def test_the_teachers_dropout_is_off_in_what_learns(toy_teacher: Denoiser) -> None:
    for module in toy_teacher.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    task = make(Generator.from_teacher(toy_teacher, 2.5), toy_teacher)
    rates = {module.p for module in task.network.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.0}


def test_a_teacher_without_a_null_condition_cannot_refine_with_guidance(toy_teacher: Denoiser) -> None:
    with pytest.raises(UsageError, match="unconditional"):
        make(Generator(toy_teacher, 2.5), toy_teacher, 2.0)


def test_tuning_changes_the_network_nearest_to_the_pixels(toy_teacher: Denoiser) -> None:
    alone = tuned_parameters(Generator(toy_teacher, 2.5))
    both = tuned_parameters(make(Generator(toy_teacher, 2.5), toy_teacher).average)
    assert both == [name.replace("denoiser.", "later.", 1) for name in alone] != []


def test_an_exported_file_gives_each_network_its_own_times(toy_teacher: Denoiser) -> None:
    later = Denoiser(toy_teacher.net, BetaSchedule.linear(500)).eval()
    generator = Generator(toy_teacher, (2.5, 0.5), later=later)
    z = torch.randn(3, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(ExportedGenerator(generator, with_shift=False)(z), generator(z).clamp(-1, 1))


@pytest.mark.parametrize("name", ["dit", "kl", "SD", "SANA", "flow", "edm-file"])
def test_every_kind_of_teacher_refines_and_is_stored_whole(name: str, tmp_path: Path) -> None:
    teacher = build_teacher(name, tmp_path)
    start = Generator(teacher.denoiser, 2.5)
    task = make(start, teacher.denoiser, batch_size=2, refine=2, lr=1e-3)
    row = run_step(task, 0)
    assert math.isfinite(row["loss"])
    made = task.whole_average().decoded_by(teacher.autoencoder)
    read = store(made, teacher, tmp_path / "generator").generator
    assert read.later is not None and read.calls == 2
    z, condition = torch.randn(2, *made.latent_shape), made.conditions.first(2)
    with torch.no_grad():
        torch.testing.assert_close(read(z, condition), made(z, condition), rtol=1e-4, atol=1e-5)
        first = start.decoded_by(teacher.autoencoder)(z, condition)
    assert (first - made(z, condition)).abs().max() > 1e-3
