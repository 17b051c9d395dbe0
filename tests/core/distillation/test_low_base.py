"""Adapters on weights in bf16: the numbers of a float32 base, and what is saved and evaluated stays float32."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gsd_cli.compute.device import full_precision
from gsd_cli.core.distillation import placement
from gsd_cli.core.distillation.costs import costs_of
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.models.adapters import merge
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import Generator, load_model, save_generator
from gsd_cli.options import DistillSettings
from tests.support.devices import PRETEND, pretend
from tests.support.stepping import run_step

pytest.importorskip("peft")
CPU = torch.device("cpu")
LOW, FULL = torch.bfloat16, torch.float32
BOTH: dict[str, Any] = {"adapters": "2", "irl": "off"}
CASES: dict[str, dict[str, Any]] = {
    "both": BOTH,
    "both, recompute, micro-batches": {**BOTH, "recompute": True, "micro_batch": 3},
    "both, dropout, two calls": {**BOTH, "dropout": 0.1, "student_steps": 2},
    "isometric": {"adapters": "2", "irl_weight": 0.5, "sidl_weight": 0.0},
    "isometric, extra images": {"adapters": "2", "irl": "literal", "irl_weight": 0.5, "sidl_weight": 0.0},
    "fake": {"adapters": "fake:2", "irl": "off"},
    "whole": {"irl": "off"},
}
each_case = pytest.mark.parametrize("given", CASES.values(), ids=list(CASES))


def make(teacher: Denoiser, device: torch.device = CPU, **settings: Any) -> Distillation:
    chosen = DistillSettings(**{"batch_size": 8, "precision": "bf16", "lr": 1e-3, **settings})
    return Distillation(copy.deepcopy(teacher), chosen, 8, device, lambda *_: {})


def on_float32(teacher: Denoiser, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Distillation:
    """The same distillation with no weight cast ahead: autocast casts all of them at each call."""
    with monkeypatch.context() as patched:
        patched.setattr(placement, "cast_for_autocast", lambda module, _: copy.deepcopy(module))
        return make(teacher, **settings)


def base_type(module: nn.Module) -> torch.dtype:
    """Of the first convolution's weight."""
    name = "conv_in.base_layer.weight"
    (found,) = (p.dtype for own, p in module.named_parameters() if own.endswith((name, "conv_in.weight")))
    return found


def require_equal(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert torch.equal(value, theirs[name]), name


@each_case
def test_steps_are_those_on_a_float32_base(
    given: dict[str, Any], toy_teacher: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, reference = make(toy_teacher, **given), on_float32(toy_teacher, monkeypatch, **given)
    for step in range(2):
        found = run_step(task, step)
        assert found["skipped"] == 0
        assert found == pytest.approx(run_step(reference, step), rel=0, abs=0, nan_ok=True)
    require_equal(task.tensors(), reference.tensors())
    trained = [p for net in (task.generator, task.fake_score.network) for p in net.parameters() if p.requires_grad]
    assert {p.dtype for p in (*trained, *task.tensors().values())} == {FULL}


@pytest.mark.parametrize(
    ("name", "generator", "fake"),
    [("both", LOW, LOW), ("isometric", FULL, LOW), ("fake", FULL, LOW), ("whole", FULL, FULL)],
)
def test_where_the_base_is_cast(name: str, generator: torch.dtype, fake: torch.dtype, toy_teacher: Denoiser) -> None:
    """An adapted generator that the isometric term calls keeps a float32 base; whole networks have no base."""
    task = make(toy_teacher, **CASES[name])
    types = [base_type(net) for net in (task.teacher, task.generator, task.average, task.fake_score.network)]
    assert types == [FULL, generator, generator, fake]


def test_the_average_is_evaluated_and_saved_on_float32_weights(
    toy_teacher: Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, reference = make(toy_teacher, **BOTH), on_float32(toy_teacher, monkeypatch, **BOTH)
    z = torch.randn(2, *toy_teacher.shape)
    for step in range(2):
        run_step(task, step), run_step(reference, step)
        found, expected = task.whole_average(), reference.whole_average()
        assert {p.dtype for p in found.parameters()} == {FULL} and base_type(task.average) == LOW
        with torch.no_grad(), full_precision(CPU):
            assert torch.equal(found(z), expected(z))
    require_equal(dict(merge(found.denoiser).state_dict()), dict(merge(expected.denoiser).state_dict()))
    save_generator(Generator(found.denoiser, found.sigmas), tmp_path / "made", {"teacher": "t"}, "# card\n", half=False)
    saved = load_model(str(tmp_path / "made")).generator.denoiser
    require_equal(dict(saved.state_dict()), dict(merge(expected.denoiser).state_dict()))


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_resumed_step_is_the_uninterrupted_one(precision: str, toy_teacher: Denoiser) -> None:
    """Also of a checkpoint that was made in another precision, whose base was another."""
    first, second = make(toy_teacher, **{**BOTH, "precision": precision}), make(toy_teacher, **BOTH)
    run_step(first, 0)
    second.load(first.tensors())
    second.whole_average()
    require_equal(second.tensors(), first.tensors())
    if precision == "bf16":
        run_step(first, 1), run_step(second, 1)
        require_equal(second.tensors(), first.tensors())


@each_case
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_bytes_are_counted(precision: str, given: dict[str, Any], toy_teacher: Denoiser) -> None:
    """Every distinct tensor of weights, gradients and Adam's moments, on a CPU and on a GPU."""
    task = make(toy_teacher, **{**given, "precision": precision})
    run_step(task, 0)
    networks = (task.score_identity.teacher, task.fake_score.network, task.generator, task.average)
    held = {p.data_ptr(): p.nbytes for net in (task.teacher, *networks) for p in net.parameters()}
    on_gpu = {p.data_ptr(): p.nbytes for net in networks for p in net.parameters()}
    gradients = sum(p.nbytes for net in networks for p in net.parameters() if p.requires_grad)
    student = sum(p.numel() for p in toy_teacher.parameters())

    def count(device: str) -> int:
        return costs_of(task.settings).state_bytes(toy_teacher, precision, student, torch.device(device))

    assert count("cpu") == sum(held.values()) + 3 * gradients
    waits = precision == "bf16" and given.get("irl") == "off"
    assert count("cuda") == sum((on_gpu if waits else held).values()) + 3 * gradients
    assert (count("cuda") < count("cpu")) == waits


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
@pytest.mark.parametrize("adapters", ["2", "off"])
def test_a_teacher_that_no_step_calls_waits_on_the_cpu(adapters: str, toy_teacher: Denoiser) -> None:
    """It visits the device while the average is evaluated or exported."""
    with pretend():
        task = make(toy_teacher, PRETEND, adapters=adapters, irl="off")
        networks = (task.score_identity.teacher, task.fake_score.network, task.generator, task.average)
        assert {net.device for net in networks[2:]} == {PRETEND}
        assert all(p.device == PRETEND for net in networks for p in net.parameters())
        for _ in range(2):
            assert task.teacher.device == CPU
            assert {p.device for p in task.whole_average().parameters()} == {PRETEND}
            assert task.teacher.device == PRETEND
            task._whole_average.forget()
        kept = make(toy_teacher, PRETEND, adapters=adapters, irl="stress")
        assert kept.teacher.device == PRETEND
        assert kept.whole_average() is kept.average
