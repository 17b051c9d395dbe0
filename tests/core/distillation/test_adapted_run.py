"""A distillation with LoRA adapters: what is trained, what is shared, what it needs, what is refused."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from gsd_cli.catalogue import cost
from gsd_cli.catalogue.run_layout import ADAPTERS, GENERATOR
from gsd_cli.core.distillation.estimate import estimate
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.options import DistillOptions, DistillSettings
from tests.support import teachers
from tests.support.shell import Shell
from tests.support.stepping import run_step

pytest.importorskip("peft")
CPU = torch.device("cpu")
SHORT = ("--batch-size", "4", "--eval-samples", "16", "--adversarial", "off")


def make(teacher: Denoiser, **settings: Any) -> Distillation:
    values = {"batch_size": 8, "precision": "fp32", "lr": 1e-3, **settings}
    return Distillation(teacher, DistillSettings(**values), 8, CPU, lambda *_: {})


@pytest.mark.parametrize(
    ("given", "kept", "ranks"), [("off", "off", (0, 0)), ("08", "8", (8, 8)), ("fake:4", "fake:4", (0, 4))]
)
def test_ranks(given: str, kept: str, ranks: tuple[int, int]) -> None:
    settings = DistillSettings(adapters=given)
    assert settings.adapters == kept and settings.adapter_ranks() == ranks


@pytest.mark.parametrize("given", ["", "0", "-2", "1.5", "2000", "teacher:2", "fake:", "fake:off", "1e2", "\u00b2"])
def test_nonsense_is_refused(given: str) -> None:
    with pytest.raises(ValidationError, match="with a rank R from 1 to 1024"):
        DistillSettings(adapters=given)


def test_a_larger_student_needs_weights_of_its_own() -> None:
    with pytest.raises(ValidationError, match="give --adapters fake:R"):
        DistillOptions(adapters="4", student_width=2)
    assert DistillOptions(adapters="fake:4", student_width=2).adapter_ranks() == (0, 4)


@pytest.mark.parametrize("irl", ["stress", "literal", "jacobian", "off"])
@pytest.mark.parametrize("adapters", ["2", "fake:2"])
def test_all_networks_learn_on_one_base(toy_teacher: Denoiser, adapters: str, irl: str) -> None:
    teacher = copy.deepcopy(toy_teacher)
    task = make(teacher, adapters=adapters, irl=irl, micro_batch=4)
    before = {name: value.clone() for name, value in task.tensors().items()}
    for step in range(2):
        assert run_step(task, step)["skipped"] == 0
    moved = {
        name.split("/")[0]
        for name, value in task.tensors().items()
        if not torch.equal(value, before.get(name, 0 * value))
    }
    assert {"generator", "fake", "average"} <= moved
    for name, value in task.teacher.state_dict().items():
        assert torch.equal(value, toy_teacher.state_dict()[name])
    base = {p.data_ptr() for p in task.teacher.parameters()}
    shares = {
        name: bool(base & {p.data_ptr() for p in module.parameters()})
        for name, module in (
            ("fake", task.fake_score.network),
            ("generator", task.generator),
            ("average", task.average),
        )
    }
    assert shares == {"fake": True, "generator": adapters == "2", "average": adapters == "2"}


def test_a_discriminator_s_generator_can_be_adapted_too(toy_teacher: Denoiser) -> None:
    task = make(toy_teacher, adapters="2", reuse_images=True, dropout=0.0, clip_grad=1.0)
    losses = [run_step(task, step)["fake_loss"] for step in range(4)]
    assert all(loss > 0 for loss in losses)


@pytest.mark.parametrize("adapters", ["off", "2", "fake:2"])
def test_the_estimate_counts_what_a_run_holds(toy_teacher: Denoiser, adapters: str) -> None:
    """Every distinct tensor of float32 numbers: weights, gradients and Adam's moments."""
    task = make(toy_teacher, adapters=adapters)
    found = estimate(toy_teacher, task.settings, CPU)
    run_step(task, 0)
    networks = (task.teacher, task.fake_score.network, task.generator, task.average)
    held = {p.data_ptr(): p.numel() for net in networks for p in net.parameters()}
    gradients = sum(p.numel() for net in networks for p in net.parameters() if p.requires_grad)
    moments = 2 * gradients
    assert found.state_bytes == 4 * (sum(held.values()) + gradients + moments)


def test_disk_and_memory_before_the_teacher_is_opened() -> None:
    whole, both, fake = (cost.disk_needed("ddpm-fashion", 1, ranks) for ranks in ((0, 0), (4, 4), (0, 4)))
    parameters = cost.teacher_parameters("ddpm-fashion") or 0
    assert (whole, both, fake) == (4 * parameters * 15, 4 * parameters, 4 * parameters * 9)
    assert "1.0 GB of memory" in cost.distillation("ddpm-fashion", 10, 4, 1, (4, 4), 10**9)[0]


def test_a_run_from_the_shell(shell: Shell) -> None:
    """Distilled, resumed, sampled; the folder is a whole network with its adapters next to it."""
    teachers.flat(shell.folder / "teacher", teachers.unet(teachers.SMALL))
    low = ("--precision", "bf16", "--irl", "off")
    command = ("distill", "--teacher", "teacher", *SHORT, *low, "--adapters", "2", "-o", "run")
    assert shell.gsd(*command, "--steps", "1").returncode == 0
    done = shell.gsd(*command, "--steps", "2")
    assert done.returncode == 0 and b"resumed at step 1" in done.stderr, done.stderr.decode()
    generator = shell.folder / "run" / GENERATOR
    assert (generator / ADAPTERS).exists() and "load_lora_weights" in (generator / "README.md").read_text()
    assert shell.gsd("sample", "--model", "run", "-N", "2", "-o", "made").returncode == 0
    done = shell.gsd(*command[:-4], "--adapters", "3", "-o", "run", "--steps", "3", "--force")
    assert done.returncode == 2 and b"adapters (2 -> 3)" in done.stderr
    done = shell.gsd(*command[:-2], "--steps", "2", "-o", "other", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["config"]["adapters"] == "2"
