"""Steps from recordings do what steps do, whatever the recording was made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gsd_cli.compute import device as device_module
from gsd_cli.core.distillation import adversarial_term, step
from gsd_cli.core.distillation.draws import DeviceDraws
from gsd_cli.core.distillation.real_images import ResidentImages
from gsd_cli.core.distillation.recorded_steps import REHEARSALS, RecordedSteps
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.distillation.taped_draws import TapedDraws
from gsd_cli.core.models.condition import every_class
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.training.report import read_all
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.options import DistillSettings
from tests.support.devices import PRETEND, pretend
from tests.support.recorder import Repeater

CPU = torch.device("cpu")
STEPS = 20


@pytest.fixture
def images(toy_archive_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageArchive:
    """Real images, and what a GPU does: they are kept there, and a learning rate is a tensor there."""
    found = ImageArchive(toy_archive_path)
    monkeypatch.setattr(adversarial_term, "keep_on", lambda device, images: ResidentImages(found, device))

    def adam(module: Any, lr: float, betas: Any, device: Any) -> torch.optim.Adam:
        trained = [p for p in module.parameters() if p.requires_grad]
        return torch.optim.Adam(trained, torch.tensor(lr), betas, fused=True)

    for module in (step, adversarial_term, step.FakeScore.__init__.__globals__):
        monkeypatch.setitem(module if isinstance(module, dict) else module.__dict__, "adam", adam)
    return found


CASES: list[dict[str, Any]] = [
    {},
    {"irl": "cells", "irl_every": 2},
    {"student_steps": 2, "irl_every": 2},
    {"adversarial": "off", "noise": "edm", "noise_device": "cpu", "fake_warmup": 0.05},
]
SLOW_CASES: list[dict[str, Any]] = [
    {"irl_weight": 0.1, "irl": "jacobian"},
    {"reuse_images": True, "irl_every": 4, "feature_matching": "8"},
    {"micro_batch": 5, "discriminator_penalty": 1.0, "irl": "off"},
]


@pytest.mark.parametrize(
    "settings", [*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW_CASES)],
    ids=lambda s: "-".join(f"{k}={v}" for k, v in s.items()) or "default",
)  # fmt: skip
def test_recorded_steps_are_steps(
    toy_teacher: Denoiser, images: ImageArchive, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    monkeypatch.setattr(adversarial_term, "HEAD_START", 40)
    given = {"batch_size": 8, "noise_device": "device", "precision": "fp32", "lr_decay": 0.3, "warmup": 0.05}
    found = []
    for recorder in (None, Repeater()):
        monkeypatch.setattr(step, "recorder_for", lambda device, recorder=recorder: recorder)
        task = Distillation(
            toy_teacher, DistillSettings(**{**given, **settings}), STEPS, CPU, lambda *_: {}, data=images
        )
        found.append((read_all([task.step(k) for k in range(STEPS)]), task.tensors()))
    assert recorder is not None
    assert recorder.variants > 0
    assert recorder.repeated > STEPS // 3
    (rows, tensors), (other_rows, other_tensors) = found
    for row, other in zip(rows, other_rows, strict=True):
        assert row == pytest.approx(other, rel=0, abs=0, nan_ok=True)
    assert all(torch.equal(value, other_tensors[name]) for name, value in tensors.items())


@pytest.mark.parametrize("student_steps", [1, 2])
def test_a_repeated_step_copies_nothing_to_the_device(
    toy_teacher: Denoiser, toy_archive_path: Path, monkeypatch: pytest.MonkeyPatch, student_steps: int
) -> None:
    monkeypatch.setattr(adversarial_term, "HEAD_START", 0)
    recorder = Repeater()
    monkeypatch.setattr(step, "recorder_for", lambda device: recorder)
    settings = DistillSettings(
        batch_size=8, noise_device="cpu", precision="fp32", irl_every=1, student_steps=student_steps
    )
    with pretend() as seen:
        archive = ImageArchive(toy_archive_path)
        monkeypatch.setattr(adversarial_term, "keep_on", lambda device, _: ResidentImages(archive, device))
        task = Distillation(toy_teacher, settings, 10, PRETEND, lambda *_: {}, data=archive)
        for k in range(2, 2 + REHEARSALS):
            task.step(k)
        found = []
        recorder.around = lambda work: _count(work, seen, found)
        task.step(2 + REHEARSALS)
    assert recorder.repeated == 1
    # the pretended device has no fused Adam, so each of three optimizers reads whether to step
    assert found == [({}, {"aten._local_scalar_dense.default": 3})]


def _count(work: Callable[[], Any], seen: Any, found: list[Any]) -> Any:
    seen.copies.clear()
    seen.waits.clear()
    done = work()
    found.append((dict(seen.copies), dict(seen.waits)))
    return done


@pytest.mark.parametrize(
    "settings", [{"cuda_graphs": False}, {"compile": True}, {"recompute": True}, {"dropout": 0.1}], ids=str
)
def test_what_is_not_recorded(settings: dict[str, Any]) -> None:
    assert step.can_be_recorded(DistillSettings(), step.World())
    assert not step.can_be_recorded(DistillSettings(**settings), step.World())


def test_images_on_the_host_are_not_recorded(
    toy_teacher: Denoiser, toy_archive_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step, "recorder_for", lambda device: Repeater())
    for settings, recorded in (({}, False), ({"adversarial": "off"}, True)):
        task = Distillation(
            toy_teacher, DistillSettings(batch_size=8, **settings), 3, CPU, lambda *_: {},
            data=ImageArchive(toy_archive_path),
        )  # fmt: skip
        assert (task.recorded is not None) == recorded


# -- what goes wrong ------------------------------------------------------------------------------


def tape(batch: int = 4) -> TapedDraws:
    return TapedDraws(DeviceDraws(0, batch, range(batch), (1, 2, 2), every_class(5), CPU))


def test_a_failed_recording_leaves_steps_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuses(Repeater):
        def record(self, work: Callable[[], Any]) -> Callable[[], Any]:
            raise RuntimeError("operation not permitted\nwhen stream is capturing")

    draws = tape()
    steps = RecordedSteps(Refuses(), draws)
    found = [steps.run(k, "one", lambda k: {"value": draws.normal("x", k).sum()}) for k in range(8)]
    assert steps.failure == "operation not permitted"
    assert steps.notes == ["steps are not recorded as CUDA graphs, and slower: operation not permitted"]
    assert not steps.rehearsing
    with monkeypatch.context() as patched:
        patched.delattr(TapedDraws, "noted")  # nothing is noted any more, not of another variant either
        assert steps.run(8, "two", lambda k: {"value": k}) == {"value": 8}
    plain = tape()
    assert [row["value"] for row in found] == [plain.normal("x", k).sum() for k in range(8)]


def test_a_step_that_draws_something_else_is_not_recorded() -> None:
    draws = tape()
    steps = RecordedSteps(Repeater(), draws)

    def work(k: int) -> dict[str, Any]:
        return {"value": draws.normal("x" if k < REHEARSALS else "y", k).sum()}

    for k in range(REHEARSALS):
        steps.run(k, "one", work)
    with pytest.raises(RuntimeError, match=r"'y'.*is drawn, the tape has.*'x'"):
        steps.run(REHEARSALS, "one", work)


def test_figures_of_a_repeated_step_stay() -> None:
    draws = tape()
    steps = RecordedSteps(Repeater(), draws)
    found = [steps.run(k, "one", lambda k: {"a": draws.normal("x", k).sum(), "b": 2.0}) for k in range(6)]
    assert not steps.rehearsing
    assert len({float(row["a"]) for row in found}) == 6
    assert all(row["b"] == 2.0 for row in found)


def test_a_tape_draws_every_kind_of_number_again() -> None:
    one, other = tape(), tape()

    def draw(draws: TapedDraws, k: int) -> list[torch.Tensor]:
        classes = draws.condition("c", k).classes
        assert classes is not None
        return [
            draws.normal("n", k, 1, "z"), draws.normal("n", k, count=2), draws.uniform("u", k), classes,
            draws.sigma(lambda n, random: torch.rand(n, generator=random), "s", k),
            draws.integers(9, "i", k, host=False),
        ]  # fmt: skip

    with one.noted() as noted:
        draw(one, 3)
    noted.fill(7)
    with one.played(noted):
        again = draw(one, 3)
    assert all(torch.equal(a, b) for a, b in zip(again, draw(other, 7), strict=True))
    with pytest.raises(RuntimeError, match="which was not drawn"), one.played(noted):
        one.condition("c", 3)


def test_rates_are_set_in_place() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    rate = torch.tensor(1e-3)
    for given in (rate, 1e-3):
        optimizer = torch.optim.Adam([parameter], given, fused=True)
        device_module.set_rate(optimizer, 0.5)
        assert optimizer.param_groups[0]["lr"] == 0.5
    assert rate == 0.5
