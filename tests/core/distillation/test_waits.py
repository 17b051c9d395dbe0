"""A round of the distillation waits for no device; where its random numbers are drawn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gsd_cli.core.distillation import adversarial_term as adversarial
from gsd_cli.core.distillation import fit_sources
from gsd_cli.core.distillation.draws import DeviceDraws, Draws, make_draws
from gsd_cli.core.distillation.isometric_forms import FORMS
from gsd_cli.core.distillation.real_images import ResidentImages
from gsd_cli.core.distillation.refinement import RefinementDistillation
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.models.condition import UNCONDITIONAL, every_class
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.training.report import read_all
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.options import DistillSettings
from tests.support.stepping import run_step

CPU = torch.device("cpu")


@pytest.fixture
def data(toy_archive_path: Path) -> ImageArchive:
    return ImageArchive(toy_archive_path)


class Waits(TorchDispatchMode):
    """Counts the operations whose result the host would have to wait for on a device."""

    NAMES = ("_local_scalar_dense", "nonzero", "_unique2", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split("::")[-1].split(".")[0]
        # a mask has to be counted before it can be an index
        masks = name.startswith("index") and any(t is not None and t.dtype == torch.bool for t in args[1])
        if name in self.NAMES or masks:
            self.found.append(func.name())
        return func(*args, **(kwargs or {}))


def test_waits_are_found() -> None:
    with Waits() as waits:
        torch.ones(()).item()
        bool(torch.ones(()) > 0)
        torch.ones(3)[torch.ones(3) > 0]
    assert len(waits.found) == 3


def resident(data: ImageArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU gets: random numbers drawn there, real images kept there."""
    monkeypatch.setattr(adversarial, "keep_on", lambda device, images: ResidentImages(data, device))
    monkeypatch.setattr(adversarial, "HEAD_START", 0)
    monkeypatch.setattr(fit_sources, "IMAGES", 64)


CASES: list[dict[str, object]] = [
    {"irl": "off"},
    *({"irl": form} for form in FORMS),
    {"irl_gradient": "free"},
    {"reuse_images": True},
    {"micro_batch": 3},
    {"discriminator_penalty": 1.0, "fake_steps": 2, "discriminator_steps": 2},
    {"clip_grad": 1.0, "dropout": 0.1, "warmup": 1.0, "noise": "edm"},
]


@pytest.mark.parametrize("settings", CASES, ids=lambda s: "-".join(f"{k}={v}" for k, v in s.items()))
def test_a_round_waits_for_nothing(
    toy_teacher: Denoiser, data: ImageArchive, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object]
) -> None:
    resident(data, monkeypatch)
    options = DistillSettings(**{"batch_size": 8, "noise_device": "device", "precision": "fp32", **settings})
    task = Distillation(toy_teacher, options, 3, CPU, lambda *_: {}, data=data)
    steps = [task.step(1)]  # a form is fitted in its first step
    with Waits() as waits:
        steps.append(task.step(2))
    assert waits.found == []
    rows = read_all(steps)
    assert rows[1]["skipped"] == 0
    assert all(math.isfinite(v) for k, v in rows[1].items() if k != "speed_spread")


def test_a_refinement_waits_for_nothing(toy_teacher: Denoiser) -> None:
    options = DistillSettings(batch_size=8, noise_device="device", precision="fp32", refine=3, clip_grad=1.0)
    task = RefinementDistillation(Generator(toy_teacher), toy_teacher, options, 3, CPU, lambda *_: {})
    task.step(0)
    with Waits() as waits:
        rows = [task.step(1)]
    assert waits.found == []
    assert read_all(rows)[0]["skipped"] == 0


# -- random numbers -------------------------------------------------------------------------------


def draws(kind: str, rows: list[int], seed: int = 0) -> Draws:
    return make_draws(kind, seed, 8, rows, (1, 4, 4), every_class(5), CPU)


def draw_classes(draws: Draws, *stream: int | str) -> torch.Tensor:
    classes = draws.condition(*stream).classes
    assert classes is not None
    return classes


@pytest.mark.parametrize("kind", ["cpu", "device"])
def test_a_row_is_the_same_whoever_draws_it(kind: str) -> None:
    """Processes draw their rows of one batch."""
    everyone, some = draws(kind, list(range(8))), draws(kind, [6, 1, 2])
    for draw in (Draws.normal, Draws.uniform, draw_classes):
        whole, part = draw(everyone, "s", 3), draw(some, "s", 3)
        assert torch.equal(whole[[6, 1, 2]], part)
        assert not torch.equal(whole, draw(everyone, "s", 4))
    assert torch.equal(everyone.normal("s", 3)[:2], everyone.normal("s", 3, count=2))
    assert torch.equal(everyone.integers(99, "s")[[6, 1, 2]], some.integers(99, "s"))


def test_the_devices_numbers_know_all_of_a_seed() -> None:
    # torch's generator on a CPU takes 32 bits of a seed: these two give it the same
    one, other = draws("device", [0], 51934), draws("device", [0], 88977)
    assert one._random("latent").initial_seed() != other._random("latent").initial_seed()


def test_where_numbers_are_drawn() -> None:
    assert type(make_draws("auto", 0, 1, [0], (1,), UNCONDITIONAL, CPU)) is Draws
    assert type(make_draws("auto", 0, 1, [0], (1,), UNCONDITIONAL, torch.device("meta"))) is DeviceDraws
    assert type(make_draws("cpu", 0, 1, [0], (1,), UNCONDITIONAL, torch.device("meta"))) is Draws


def test_numbers_of_the_device_train_too(toy_teacher: Denoiser, data: ImageArchive) -> None:
    rows = []
    for kind in ("cpu", "device", "device"):
        options = DistillSettings(batch_size=8, noise_device=kind, precision="fp32")
        task = Distillation(toy_teacher, options, 3, CPU, lambda *_: {}, data=data)
        rows.append(run_step(task, 0))
    assert rows[1] == rows[2]
    assert rows[0] != rows[1]
