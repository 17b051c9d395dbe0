from __future__ import annotations

import pytest
import torch

from gsd_cli.core.denoiser import Denoiser
from gsd_cli.core.distillation import Distillation
from gsd_cli.core.estimate import COPIES, activation_bytes, estimate, passes
from gsd_cli.core.noise import NoiseSchedule
from gsd_cli.options import DistillSettings
from tests.teachers import FACES, unet

CPU = torch.device("cpu")


def faces() -> Denoiser:
    return Denoiser(unet(FACES), NoiseSchedule.linear()).requires_grad_(False)


def kept(model: Denoiser, batch: int) -> int:
    """Bytes that autograd really keeps, each storage once, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.net(torch.randn(batch, *model.shape, requires_grad=True), torch.ones(batch))
    return sum(seen.values())


def test_counted_activations_are_those_autograd_keeps() -> None:
    model = faces().requires_grad_(True)
    real = kept(model, 3) - kept(model, 2)
    assert activation_bytes(model, recompute=False) == pytest.approx(real, rel=0.02)


def test_recomputing_counts_less() -> None:
    assert activation_bytes(faces(), recompute=True) < 0.5 * activation_bytes(faces(), recompute=False)


def test_the_state_is_what_a_run_holds(toy_teacher: Denoiser) -> None:
    settings = DistillSettings(batch_size=8)
    task = Distillation(toy_teacher, settings, 4, CPU, lambda *_: {})
    task.step(0)
    held = sum(t.numel() for t in task.tensors().values()) + sum(p.numel() for p in task.teacher.parameters())
    held += sum(p.grad.numel() for m in (task.generator, task.fake) for p in m.parameters() if p.grad is not None)
    found = estimate(toy_teacher, settings, CPU)
    assert found.state_bytes == COPIES * 4 * found.parameters
    assert 4 * held == pytest.approx(found.state_bytes, rel=0.02)
    assert found.seconds_per_step > 0


def test_smaller_pieces_need_less_and_take_as_long(toy_teacher: Denoiser) -> None:
    whole, pieces = (
        estimate(toy_teacher, DistillSettings(batch_size=32, micro_batch=size), CPU) for size in (None, 4)
    )  # fmt: skip
    assert pieces.activation_bytes * 8 == whole.activation_bytes
    assert pieces.state_bytes == whole.state_bytes


def test_without_the_distillation_the_generator_is_all_that_runs(toy_teacher: Denoiser) -> None:
    with_it = estimate(toy_teacher, DistillSettings(), CPU)
    without = estimate(toy_teacher, DistillSettings(sidl_weight=0.0), CPU)
    assert 3 * without.activation_bytes == with_it.activation_bytes
    assert without.state_bytes == with_it.state_bytes


def test_the_way_along_the_manifold_takes_its_time(toy_teacher: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gsd_cli.core.estimate.seconds_per_image", lambda *_: 1.0)

    def seconds(**settings: object) -> float:
        return estimate(toy_teacher, DistillSettings(batch_size=8, **settings), CPU).seconds_per_step / 8

    free = seconds(irl_gradient="free")
    assert seconds(irl="off") == seconds(irl="off", irl_gradient="manifold") == free
    assert seconds(irl="stress", irl_gradient="manifold") == free + 1.5  # half of the images, three calls each
    assert seconds(irl="straight", irl_gradient="manifold") == free + 2.25
    assert seconds(irl="jacobian", irl_gradient="manifold", irl_every=2) == free + 1.5
    assert (free, seconds()) == (12, 13.5) == (passes(DistillSettings(irl_gradient="free")), passes(DistillSettings()))
