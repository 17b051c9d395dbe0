"""The adversarial term in a distillation: it learns, pulls, and is exact whatever the batch is cut into."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.core.distillation.losses import accuracy, adversarial_loss, discriminator_loss, smoothness_loss
from gsd_cli.core.distillation.norm_ratio import NormRatio
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.training.unets import build_unet
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.options import DistillSettings
from tests.support.stepping import GOOD, run_step

CPU = torch.device("cpu")


def make(teacher: Denoiser, data: ImageArchive | None, **settings: object) -> Distillation:
    values = {"batch_size": 8, "adversarial": 1.0, "irl": "off", **settings}
    return Distillation(teacher, DistillSettings(**values), 6, CPU, lambda *_: {}, data=data)


@pytest.fixture
def data(toy_archive_path: Path) -> ImageArchive:
    return ImageArchive(toy_archive_path)


@pytest.fixture(autouse=True)
def _no_head_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gsd_cli.core.distillation.adversarial_term.HEAD_START", 0)


# -- the losses, in closed form -------------------------------------------------------------------


def test_an_undecided_discriminator_costs_2_log_2_and_a_sure_one_nothing() -> None:
    sure = [torch.full((3, 2, 2), 50.0), torch.full((3, 4, 4), 50.0)]
    zero, wrong = [0 * m for m in sure], [-m for m in sure]
    assert torch.allclose(discriminator_loss(zero, zero), torch.full((3,), 2 * math.log(2)))
    assert discriminator_loss(sure, wrong).max() < 1e-12
    assert torch.allclose(discriminator_loss(wrong, sure), torch.full((3,), 100.0))


def test_every_map_counts_alike_and_every_image_alone() -> None:
    small, large = torch.zeros(2, 1, 1), torch.full((2, 8, 8), 100.0)
    small[1] = 100.0
    expected = torch.tensor([math.log(2) / 2, 0.0])
    torch.testing.assert_close(adversarial_loss([small, large]), expected)
    torch.testing.assert_close(accuracy([small, large], real=True), torch.tensor([0.5, 1.0]))
    torch.testing.assert_close(accuracy([small, large], real=False), torch.zeros(2))


def test_the_generators_loss_never_saturates() -> None:
    logits = torch.tensor([-40.0, 0.0, 40.0]).reshape(3, 1, 1).requires_grad_(True)
    adversarial_loss([logits]).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad.flatten(), torch.tensor([-1.0, -0.5, 0.0]))


def test_the_smoothness_loss_is_the_mean_squared_slope() -> None:
    slope, step = torch.tensor([[1.0, 2.0], [3.0, -4.0]]), 0.1
    n = torch.randn(4000, 2, 2)
    x = torch.randn(4000, 2, 2)
    logits = [torch.cat([slope * x, slope * (x + step * n)])]
    found = smoothness_loss(logits, step)
    assert found.shape == (4000,)
    assert found.mean().item() == pytest.approx((1 + 4 + 9 + 16) / 4, rel=0.05)
    assert smoothness_loss([torch.ones(6, 3, 3)], step).tolist() == [0.0, 0.0, 0.0]


def test_a_ratio_of_norms_is_held() -> None:
    balance = NormRatio(torch.device("cpu"))
    assert balance.weight(2.0) == 0
    for _ in range(3):
        balance.update(torch.tensor(6.0), torch.tensor(3.0))
    assert balance.weight(2.0) == pytest.approx(4.0)
    before = balance.norms.clone()
    balance.update(torch.tensor(math.nan), torch.tensor(1.0))
    balance.update(torch.tensor(1.0), torch.tensor(0.0))
    assert torch.equal(before, balance.norms)


# -- in a distillation ----------------------------------------------------------------------------


@pytest.mark.parametrize(("adversarial", "real"), [("off", True), (0.0, True), ("auto", False)])
def test_off_it_changes_nothing(toy_teacher: Denoiser, data: ImageArchive, adversarial: object, real: bool) -> None:
    plain = make(toy_teacher, None, adversarial="off")
    off = make(toy_teacher, data if real else None, adversarial=adversarial)
    assert run_step(plain, 0) == run_step(off, 0)
    assert plain.tensors().keys() == off.tensors().keys()
    assert all(torch.equal(a, b) for a, b in zip(plain.tensors().values(), off.tensors().values(), strict=True))


def test_by_default_it_is_on_where_there_are_real_images(toy_teacher: Denoiser, data: ImageArchive) -> None:
    assert make(toy_teacher, data, adversarial="auto").adversarial.ratio == 2.0
    # the paper's row without a distillation loss has neither of its parts
    assert not make(toy_teacher, data, adversarial="auto", sidl_weight=0).adversarial.on


def test_only_the_generator_and_the_heads_feel_it(toy_teacher: Denoiser, data: ImageArchive) -> None:
    plain, judged = make(toy_teacher, None, adversarial="off"), make(toy_teacher, data)
    heads = {k: v.clone() for k, v in judged.adversarial.heads.state_dict().items()}
    frozen = {k: v.clone() for k, v in judged.teacher.state_dict().items()}
    first, second = run_step(plain, 0), run_step(judged, 0)
    assert second["discriminator_loss"] > 0
    assert second["adversarial_loss"] > 0
    assert "discriminator_loss" not in first
    assert second["sidl_norm"] == first["sidl_norm"]
    assert second["adversarial_ratio"] == pytest.approx(1.0)
    assert 0 <= second["accuracy_real"] <= 1
    assert all(torch.equal(v, frozen[k]) for k, v in judged.teacher.state_dict().items())
    assert not all(torch.equal(v, heads[k]) for k, v in judged.adversarial.heads.state_dict().items())
    same = [
        torch.equal(a, b)
        for a, b in zip(plain.fake_score.network.parameters(), judged.fake_score.network.parameters(), strict=True)
    ]
    assert all(same), "the fake score learns from the generator's images alone"
    moved = zip(plain.generator.parameters(), judged.generator.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in moved)


def test_it_learns_to_tell_real_from_generated(toy_teacher: Denoiser, data: ImageArchive) -> None:
    task = make(toy_teacher, data, discriminator_penalty=0)
    images, condition = task._fake_images("fake", 0, batch=None)
    found = [task.adversarial.update(images, condition, GOOD, "discriminator", step)[0] for step in range(60)]
    assert found[0]["discriminator_loss"] == pytest.approx(2 * math.log(2), abs=0.4)
    assert sum(row["discriminator_loss"] for row in found[-5:]) / 5 < 0.7
    assert min(found[-1]["accuracy_real"], found[-1]["accuracy_fake"]) > 0.8


def test_a_penalty_makes_it_less_steep(toy_teacher: Denoiser, data: ImageArchive) -> None:
    steepness = []
    for penalty in (0.0, 0.3):
        task = make(toy_teacher, data, discriminator_penalty=penalty, precision="fp32")
        images, condition = task._fake_images("fake", 0, batch=None)
        for step in range(30):
            task.adversarial.update(images, condition, GOOD, "discriminator", step)
        steepness.append(task.adversarial.measure(images, condition, 0).gradient.norm().item())
    assert steepness[1] < 0.7 * steepness[0]


def test_its_gradient_leads_towards_images_that_pass_for_real(toy_teacher: Denoiser, data: ImageArchive) -> None:
    task = make(toy_teacher, data)
    images, condition = task._fake_images("fake", 0, batch=None)
    for step in range(40):
        task.adversarial.update(images, condition, GOOD, "discriminator", step)
    moved = images
    before = task.adversarial.measure(moved, condition, 0)
    for _ in range(5):
        felt = task.adversarial.measure(moved, condition, 0)
        moved = moved - 2.0 * felt.gradient / felt.gradient.norm()
    assert task.adversarial.measure(moved, condition, 0).loss < before.loss


def test_its_gradient_is_that_of_its_loss(toy_teacher: Denoiser, data: ImageArchive) -> None:
    task = make(toy_teacher, data, precision="fp32")
    images, condition = task._fake_images("fake", 0, batch=None)
    felt = task.adversarial.measure(images, condition, 3)
    direction = felt.gradient / felt.gradient.norm()  # the steepest: the change stands out from rounding
    step = 0.2
    ahead, back = (task.adversarial.measure(images + s * direction, condition, 3).loss for s in (step, -step))
    along = (felt.gradient * direction).sum().item()
    assert (ahead - back) / (2 * step) == pytest.approx(along, rel=0.05)


@pytest.mark.parametrize(
    "more", [{}, {"reuse_images": True}, {"discriminator_steps": 2, "irl": "stress", "discriminator_penalty": 0.01}]
)
def test_micro_batches_change_nothing(toy_teacher: Denoiser, data: ImageArchive, more: dict) -> None:
    whole, split = make(toy_teacher, data, **more), make(toy_teacher, data, micro_batch=3, **more)
    a, b = run_step(whole, 0), run_step(split, 0)
    assert a == pytest.approx(b, rel=1e-4)
    for network in (lambda t: t.generator, lambda t: t.fake_score.network):
        gradients = [torch.cat([p.grad.flatten() for p in network(t).parameters()]) for t in (whole, split)]
        assert torch.allclose(*gradients, atol=1e-4 * gradients[0].abs().max().item())
    heads = [torch.cat([p.grad.flatten() for p in t.adversarial.heads.parameters()]) for t in (whole, split)]
    # the penalty divides by the square of a small step, and so does its rounding
    assert torch.allclose(*heads, atol=1e-3 * heads[0].abs().max().item())


def test_a_resumed_run_is_the_same_to_the_bit(toy_teacher: Denoiser, data: ImageArchive) -> None:
    straight = make(toy_teacher, data, irl="stress")
    for step in range(4):
        expected = run_step(straight, step)
    stopped = make(toy_teacher, data, irl="stress")
    for step in range(2):
        run_step(stopped, step)
    resumed = make(toy_teacher, data, irl="stress")
    resumed.load({k: v.clone() for k, v in stopped.tensors().items()})
    for step in range(2, 4):
        found = run_step(resumed, step)
    assert found == expected
    assert all(torch.equal(v, resumed.tensors()[k]) for k, v in straight.tensors().items())


def test_a_checkpoint_without_a_discriminator_is_refused(toy_teacher: Denoiser, data: ImageArchive) -> None:
    plain = make(toy_teacher, None, adversarial="off")
    with pytest.raises(GsdError, match="no discriminator") as caught:
        make(toy_teacher, data).load(plain.tensors())
    assert caught.value.code == ExitCode.INPUT


def test_the_isometric_ratio_refers_to_everything_else(
    toy_teacher: Denoiser, data: ImageArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make(toy_teacher, data, adversarial=4.0, irl="stress", irl_gradient="free")
    weight, asked = task.isometric.weight, []

    def spy(own: float, rest: float, step: int) -> float:
        asked.append(rest)
        return weight(own, rest, step)

    monkeypatch.setattr(task.isometric, "weight", spy)
    for step in range(3):
        found = run_step(task, step)
        pull = found["adversarial_weight"] * found["adversarial_norm"]
        # the norm of a sum lies between the difference of the norms and their sum
        assert abs(pull - found["sidl_norm"]) * 0.999 <= asked[step] <= (pull + found["sidl_norm"]) * 1.001
        assert asked[step] > 1.5 * found["sidl_norm"]


def test_the_discriminator_has_a_head_start(
    toy_teacher: Denoiser, data: ImageArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gsd_cli.core.distillation.adversarial_term.HEAD_START", 16)
    task = make(toy_teacher, data)
    rows = [run_step(task, step) for step in range(3)]
    assert [row["adversarial_weight"] > 0 for row in rows] == [False, False, True]
    assert all(row["discriminator_loss"] > 0 for row in rows)


def test_classes_go_with_their_images(data: ImageArchive) -> None:
    from gsd_cli.core.models.beta_schedule import BetaSchedule

    torch.manual_seed(3)
    teacher = Denoiser(build_unet("tiny", 16, 1, 3), BetaSchedule.linear())
    task = make(teacher, data, irl="stress")
    row = run_step(task, 0)
    assert math.isfinite(row["discriminator_loss"])
    with pytest.raises(GsdError, match="no classes"):
        make(teacher, Unlabelled(data))
    few = Denoiser(build_unet("tiny", 16, 1, 2), BetaSchedule.linear())
    with pytest.raises(GsdError, match="classes up to 2, the teacher has 2") as caught:
        make(few, data)
    assert caught.value.code == ExitCode.USAGE


class Unlabelled(ImageArchive):
    def __init__(self, like: ImageArchive):
        super().__init__(like.path)

    labels = None  # type: ignore[assignment]


def test_without_real_images_or_with_others_it_is_refused(toy_teacher: Denoiser, data: ImageArchive) -> None:
    with pytest.raises(GsdError, match="needs real images") as caught:
        make(toy_teacher, None)
    assert caught.value.code == ExitCode.USAGE
    data.shape = (3, 32, 32)
    with pytest.raises(GsdError, match=r"\(3, 32, 32\)"):
        make(toy_teacher, data)
