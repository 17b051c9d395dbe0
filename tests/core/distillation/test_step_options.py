"""Levers of speed and memory: the method stays what it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from gsd_cli.compute.memory import keep_freed_memory
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.options import DistillOptions, DistillSettings
from tests.support.stepping import GOOD, run_step
from tests.support.teachers import FACES, unet

CPU = torch.device("cpu")


def make(teacher: Denoiser, **settings: object) -> Distillation:
    return Distillation(teacher, DistillSettings(**{"batch_size": 8, **settings}), 10, CPU, lambda *_: {})


def parameters(owner: object, network: str) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in getattr(owner, network).parameters()])


class Saved:
    """Bytes that autograd keeps for the backward pass."""

    def __init__(self) -> None:
        self.bytes = 0

    def __enter__(self) -> Saved:
        def keep(tensor: torch.Tensor) -> torch.Tensor:
            self.bytes += tensor.numel() * tensor.element_size()
            return tensor

        self._hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._hooks.__exit__(*exc)


def test_recomputing_gives_the_same_step(toy_teacher: Denoiser) -> None:
    plain, frugal = make(toy_teacher), make(toy_teacher, recompute=True)
    assert run_step(plain, 3) == pytest.approx(run_step(frugal, 3), rel=1e-6)
    assert torch.allclose(parameters(plain, "generator"), parameters(frugal, "generator"), atol=1e-7)
    assert torch.allclose(parameters(plain.fake_score, "network"), parameters(frugal.fake_score, "network"), atol=1e-7)


def test_recomputing_keeps_less_for_the_backward_pass() -> None:
    kept = {}
    for recompute in (False, True):
        task = make(Denoiser(unet(FACES), make_schedule()), batch_size=2, recompute=recompute, irl="off")
        with Saved() as saved:
            task._generate(0)
        kept[recompute] = saved.bytes
    assert kept[True] < 0.6 * kept[False]


def make_schedule() -> Any:
    from gsd_cli.core.models.beta_schedule import BetaSchedule

    return BetaSchedule.linear()


@pytest.mark.slow
def test_a_reduced_256_teacher_takes_a_step() -> None:
    """The blocks of google/ddpm-*-256, with their attention, at a quarter of width and side."""
    task = make(
        Denoiser(unet(FACES), make_schedule()), batch_size=4, recompute=True, micro_batch=2, irl_weight=1.0, alpha=1.0
    )
    before = parameters(task, "generator").clone()
    metrics = run_step(task, 5)
    assert all(torch.isfinite(torch.tensor(list(metrics.values()))))
    assert not torch.equal(parameters(task, "generator"), before)


def calls_of(task: Distillation) -> list[int]:
    seen: list[int] = []
    task.generator.register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0])))
    return seen


@pytest.mark.parametrize("micro_batch", [None, 4])
def test_reused_images_save_a_call(toy_teacher: Denoiser, micro_batch: int | None) -> None:
    fresh, reusing = make(toy_teacher, micro_batch=micro_batch), make(
        toy_teacher, micro_batch=micro_batch, reuse_images=True
    )  # fmt: skip
    counted = [calls_of(task) for task in (fresh, reusing)]
    run_step(fresh, 0)
    run_step(reusing, 0)
    assert sum(counted[0]) - sum(counted[1]) == 8


def test_reused_images_are_those_of_the_current_generator(toy_teacher: Denoiser) -> None:
    """The generator's step itself is untouched: only the fake score sees other images before it."""
    task = make(toy_teacher, reuse_images=True)
    batch = task._generate(0)
    task.fake_score.update(*task._fake_images("fake", 0, 0, batch=batch), GOOD, "fake", 0, 0)
    again = task._generate(0)
    assert torch.equal(batch.images, again.images)


@pytest.mark.slow
def test_compiled_networks_take_the_same_step(toy_teacher: Denoiser) -> None:
    plain, compiled = make(toy_teacher), make(toy_teacher, compile=True)
    assert run_step(plain, 3) == pytest.approx(run_step(compiled, 3), rel=1e-3)
    assert torch.allclose(parameters(plain, "generator"), parameters(compiled, "generator"), atol=1e-4)


def test_keeping_freed_memory_is_harmless_to_repeat() -> None:
    assert keep_freed_memory() == keep_freed_memory()


def test_the_learning_rate_falls_to_nothing_at_the_end(toy_teacher: Denoiser) -> None:
    task = make(toy_teacher, lr=1e-3, lr_decay=0.4)
    rates = []
    for step in range(10):
        run_step(task, step)
        rates.append((task.generator_adam.param_groups[0]["lr"], task.fake_score.adam.param_groups[0]["lr"]))
    assert [lr for lr, _ in rates] == pytest.approx([1e-3] * 7 + [0.75e-3, 0.5e-3, 0.25e-3])
    assert {fake for _, fake in rates} == {1e-3}  # the fake score keeps up


def test_reused_images_and_dropout_contradict_each_other() -> None:
    """The images of the generator's step carry dropout, and the fake score must not learn of it."""
    with pytest.raises(ValidationError, match="--reuse-images"):
        DistillOptions(reuse_images=True, dropout=0.1)
    assert DistillOptions(reuse_images=True).reuse_images


def test_dropout_acts_on_the_network_that_learns_alone(toy_teacher: Denoiser) -> None:
    """The fake score learns of images without dropout, and judges without dropout."""
    task = make(toy_teacher, dropout=0.5, irl="off", adversarial="off")
    seen: dict[str, list[bool]] = {"generator": [], "fake": []}
    task.generator.register_forward_hook(lambda module, *_: seen["generator"].append(module.training))
    task.fake_score.network.register_forward_hook(lambda module, *_: seen["fake"].append(module.training))
    task.step(0)
    # learning of the fake score: images, then its own loss; the generator's step: images, then the judgement
    assert seen == {"generator": [False, True], "fake": [True, False]}
    assert task.generator.training and task.fake_score.network.training
    assert all(module.training for module in task.fake_score.network.modules())


def test_recomputing_with_dropout_gives_the_same_step(toy_teacher: Denoiser) -> None:
    plain, frugal = (make(toy_teacher, dropout=0.5, recompute=recompute) for recompute in (False, True))
    assert run_step(plain, 3) == pytest.approx(run_step(frugal, 3), rel=1e-5)
