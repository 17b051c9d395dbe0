"""A distillation that starts from a generator with a second network, and trains that one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from gsd_cli.core.distillation.costs import costs_of
from gsd_cli.core.distillation.estimate import estimate
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import Generator
from gsd_cli.options import DistillSettings
from tests.support.stepping import run_step

CPU = torch.device("cpu")


@pytest.fixture
def start(toy_teacher: Denoiser) -> Generator:
    """Two networks, neither of which is the teacher."""
    torch.manual_seed(3)
    found = [Generator.from_teacher(toy_teacher, 2.5).denoiser for _ in range(2)]
    with torch.no_grad():
        for network in found:
            for parameter in network.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
    return Generator(found[0], (2.5, 0.6), later=found[1])


def make(teacher: Denoiser, start: Generator, **settings: Any) -> Distillation:
    values = {"batch_size": 8, "precision": "fp32", "lr": 1e-3, **settings}
    return Distillation(teacher, DistillSettings(**values), 20, CPU, lambda *_: {}, start=start)


def weights(module: torch.nn.Module | None) -> list[Tensor]:
    assert module is not None
    return [value.detach().clone() for value in module.state_dict().values()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "no isometric term": {"irl": "off"},
    "extra images": {"irl": "literal", "irl_weight": 0.5},
    "recompute, micro-batches": {"recompute": True, "micro_batch": 3},
    "dropout": {"dropout": 0.2},
    "bf16": {"precision": "bf16"},
    "reuse": {"reuse_images": True, "fake_steps": 2},
    "adapters": {"adapters": "fake:2"},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_the_second_network_learns_and_the_first_stays(
    toy_teacher: Denoiser, start: Generator, settings: dict[str, Any]
) -> None:
    if "adapters" in settings:
        pytest.importorskip("peft")
    given = weights(start)
    task = make(toy_teacher, start, **settings)
    assert task.generator.sigmas == task.average.sigmas == (2.5, 0.6)
    for step in range(8, 11):  # the isometric term is off at first
        assert run_step(task, step)["skipped"] == 0
    assert same(given, weights(start))
    assert same(weights(task.generator.denoiser), weights(start.denoiser))
    assert same(weights(task.average.denoiser), weights(start.denoiser))
    assert not same(weights(task.generator.later), weights(start.later))
    assert not same(weights(task.average.later), weights(start.later))
    if not settings.get("dropout"):
        z = torch.randn(2, 1, 16, 16)
        first = [one.trace(z, toy_teacher.conditions.expand(2))[0].clean for one in (task.generator, start)]
        assert torch.equal(*first)


@pytest.mark.parametrize("settings", [{}, {"irl": "borders", "adversarial": "off"}], ids=["default", "borders"])
@pytest.mark.usefixtures("quick_layout")
def test_a_resumed_run_is_the_uninterrupted_one(
    toy_teacher: Denoiser, start: Generator, settings: dict[str, Any]
) -> None:
    whole, half, resumed = (make(toy_teacher, start, **settings) for _ in range(3))
    for step in range(4):
        run_step(whole, step)
    for step in range(2):
        run_step(half, step)
    saved = {name: value.clone() for name, value in half.tensors().items()}
    own = sum(value.numel() for name, value in saved.items() if name.startswith("generator/"))
    assert start.later is not None
    assert own == sum(value.numel() for value in start.later.state_dict().values())  # the first one is not in it
    resumed.load(saved)
    for step in range(2, 4):
        run_step(resumed, step)
    assert same(weights(whole.average), weights(resumed.average))
    assert same(weights(whole.generator), weights(resumed.generator))


def test_micro_batches_give_the_gradient_of_the_batch(toy_teacher: Denoiser, start: Generator) -> None:
    whole, parts = (make(toy_teacher, start, irl_gradient="free", **more) for more in ({}, {"micro_batch": 3}))
    for task in (whole, parts):
        run_step(task, 10)
    assert whole.generator.later is not None and parts.generator.later is not None
    largest = max(p.grad.abs().max().item() for p in whole.generator.later.parameters() if p.grad is not None)
    pairs = zip(whole.generator.later.parameters(), parts.generator.later.parameters(), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(other.grad, one.grad, rtol=2e-3, atol=1e-4 * largest)
    assert all(p.grad is None for p in whole.generator.denoiser.parameters())


@pytest.mark.parametrize(
    "settings",
    [{}, {"fake_steps": 3}, {"sidl_weight": 0.0}, {"irl_gradient": "manifold"}, {"irl": "off", "reuse_images": False}],
)
def test_the_passes_are_those_it_makes(toy_teacher: Denoiser, start: Generator, settings: dict[str, Any]) -> None:
    """Forward passes by a hook; a backward pass counts for two to the weights, for one to the latents."""
    task = make(toy_teacher, start, **{"irl_gradient": "free", **settings})
    seen: dict[str, int] = {"first": 0, "second": 0}
    for name, network in zip(seen, task.generator.networks, strict=True):

        def count(_module: object, inputs: tuple[Tensor, ...], _output: object, name: str = name) -> None:
            seen[name] += len(inputs[0])

        network.register_forward_hook(count)
    run_step(task, 3)
    along = settings.get("irl_gradient") == "manifold"
    to_latents = 0.5 if along else 0  # of half of the images
    one, two = costs_of(task.settings), costs_of(task.settings, 1)
    assert two.generator_passes == one.generator_passes == seen["second"] / 8 + 2 + to_latents
    assert two.passes - one.passes == seen["first"] / 8 + to_latents


def test_the_first_network_is_in_memory_once(toy_teacher: Denoiser, start: Generator) -> None:
    task = make(toy_teacher, start, irl="off")
    for step in range(2):
        run_step(task, step)
    networks = (task.teacher, task.fake_score.network, task.generator, task.average)
    held = {p.data_ptr(): p.numel() for network in networks for p in network.parameters()}
    moments = 3 * 2 * sum(p.numel() for p in toy_teacher.parameters())  # gradients and Adam's, of two networks
    assert estimate(toy_teacher, task.settings, CPU, first_calls=1).state_bytes == 4 * (sum(held.values()) + moments)
