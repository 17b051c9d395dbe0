from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from gsd_cli.core.adversary import logits_of
from gsd_cli.core.denoiser import Denoiser, per_image
from gsd_cli.core.distillation import Distillation
from gsd_cli.core.losses import adversarial_loss, discriminator_loss, residual
from gsd_cli.data.archive import ImageArchive
from gsd_cli.errors import ExitCode, GsdError
from gsd_cli.options import DistillSettings

CPU = torch.device("cpu")


def make(teacher: Denoiser, data: ImageArchive | None, **settings: object) -> Distillation:
    values = {"batch_size": 8, "adversarial": 1.0, "irl": "off", **settings}
    return Distillation(teacher, DistillSettings(**values), 6, CPU, lambda *_: {}, data=data)


@pytest.fixture
def data(toy_archive_path: Path) -> ImageArchive:
    return ImageArchive(toy_archive_path)


def test_an_undecided_judge_costs_log_2_and_a_sure_one_nothing() -> None:
    sure = torch.full((3, 2, 2), 50.0)
    assert torch.allclose(discriminator_loss(0 * sure, 0 * sure), torch.full((3,), math.log(2)))
    assert discriminator_loss(sure, -sure).max() < 1e-12
    assert torch.allclose(discriminator_loss(-sure, sure), torch.full((3,), 50.0))


def test_the_adversarial_loss_is_on_the_scale_of_the_distillation() -> None:
    y, f = torch.zeros(2, 1, 4, 4), torch.tensor([0.5, 0.25]).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)
    found = adversarial_loss(torch.zeros(2, 2, 2), y, f)
    assert torch.allclose(found, 16 * math.log(2) / torch.tensor([0.5, 0.25]))
    assert torch.allclose(residual(y, f), torch.tensor([0.5, 0.25]))
    far = adversarial_loss(torch.full((2, 2, 2), -1e6), y, f)
    assert torch.allclose(far, 16 * math.log1p(math.exp(10)) / torch.tensor([0.5, 0.25]))


def test_logits_are_the_mean_over_channels_of_the_middle(toy_teacher: Denoiser) -> None:
    x = torch.randn(3, 1, 16, 16)
    with torch.no_grad(), logits_of(toy_teacher) as maps:
        toy_teacher(x, per_image(0.7, x))
    with torch.no_grad():
        expected = toy_teacher.encode(x, per_image(0.7, x))[-1].mean(1)
    assert torch.allclose(maps[0], expected, atol=1e-6)
    toy_teacher(x, per_image(0.7, x))
    assert len(maps) == 1, "the hook is gone"


def test_off_it_changes_nothing(toy_teacher: Denoiser, data: ImageArchive) -> None:
    plain, off = make(toy_teacher, None, adversarial=0.0), make(toy_teacher, data, adversarial=0.0)
    assert plain.step(0) == off.step(0)
    assert all(torch.equal(a, b) for a, b in zip(plain.tensors().values(), off.tensors().values(), strict=True))


def test_both_networks_feel_it(toy_teacher: Denoiser, data: ImageArchive) -> None:
    plain, judged = make(toy_teacher, None, adversarial=0.0), make(toy_teacher, data, adversarial=0.1)
    first, second = plain.step(0), judged.step(0)
    assert second["discriminator_loss"] > 0 and second["adversarial_loss"] > 0
    assert "discriminator_loss" not in first
    assert second["sidl_norm"] != first["sidl_norm"]
    for name in ("generator", "fake"):
        pairs = zip(getattr(plain, name).parameters(), getattr(judged, name).parameters(), strict=True)
        assert not all(torch.equal(a, b) for a, b in pairs)


def test_the_judge_learns_to_tell_real_from_made(toy_teacher: Denoiser, data: ImageArchive) -> None:
    task = make(toy_teacher, data, lr=3e-3, t_min=1, t_max=60)
    losses = [task._fake_step("fake", step)["discriminator_loss"] for step in range(60)]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])


def test_micro_batches_change_nothing(toy_teacher: Denoiser, data: ImageArchive) -> None:
    whole, split = make(toy_teacher, data), make(toy_teacher, data, micro_batch=3)
    a, b = whole.step(0), split.step(0)
    assert a == pytest.approx(b, rel=1e-5)
    gradients = [torch.cat([p.grad.flatten() for p in t.generator.parameters()]) for t in (whole, split)]
    assert torch.allclose(*gradients, atol=1e-4 * gradients[0].abs().max().item())


def test_a_resumed_stream_of_real_images_is_the_same(toy_teacher: Denoiser, data: ImageArchive) -> None:
    task = make(toy_teacher, data)
    one, again, other = (task.adversary.draw(task.draws, "fake", step) for step in (4, 4, 5))
    assert one is not None and again is not None and other is not None
    assert torch.equal(one.images, again.images)
    assert not torch.equal(one.images, other.images)


def test_without_pictures_or_with_others_it_is_refused(toy_teacher: Denoiser, data: ImageArchive) -> None:
    with pytest.raises(GsdError, match="needs real pictures") as caught:
        make(toy_teacher, None)
    assert caught.value.code == ExitCode.USAGE
    data.shape = (3, 32, 32)
    with pytest.raises(GsdError, match=r"\(3, 32, 32\)"):
        make(toy_teacher, data)
