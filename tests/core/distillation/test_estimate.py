from __future__ import annotations

import pytest
import torch

from gsd_cli.core.distillation.costs import STUDENT_TRAINED, VALUES_TRAINED, costs_of
from gsd_cli.core.distillation.estimate import activation_bytes, estimate
from gsd_cli.core.distillation.growth import grow
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.dit import DIT
from gsd_cli.options import DistillSettings
from tests.support.stepping import run_step
from tests.support.teachers import FACES, dit, unet

CPU = torch.device("cpu")


def faces() -> Denoiser:
    return Denoiser(unet(FACES), BetaSchedule.linear()).requires_grad_(False)


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


@pytest.mark.parametrize("growth", [{}, {"student_width": 2, "student_depth": 2}])
def test_the_state_is_what_a_run_holds(toy_teacher: Denoiser, growth: dict[str, int]) -> None:
    settings = DistillSettings(batch_size=8, precision="fp32", **growth)
    task = Distillation(toy_teacher, settings, 4, CPU, lambda *_: {})
    run_step(task, 0)
    held = sum(t.numel() for t in task.tensors().values()) + sum(p.numel() for p in task.teacher.parameters())
    held += sum(
        p.grad.numel() for m in (task.generator, task.fake_score.network) for p in m.parameters() if p.grad is not None
    )
    found = estimate(toy_teacher, settings, CPU)
    assert found.student_parameters == sum(p.numel() for p in task.generator.parameters())
    assert found.state_bytes == 4 * (VALUES_TRAINED * found.parameters + STUDENT_TRAINED * found.student_parameters)
    assert 4 * held == pytest.approx(found.state_bytes, rel=0.02)
    assert found.seconds_per_step > 0


def test_a_process_holds_its_piece_of_the_state(toy_teacher: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = estimate(toy_teacher, DistillSettings(batch_size=4, precision="fp32"), CPU)
    for name, value in {"MASTER_ADDR": "localhost", "RANK": "0", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    piece = estimate(toy_teacher, DistillSettings(batch_size=4, precision="fp32", shard=True), CPU)
    assert piece.state_bytes == whole.state_bytes // 4


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
    monkeypatch.setattr("gsd_cli.core.distillation.estimate.seconds_per_call", lambda _model, _device, batch, _: batch)

    def seconds(**settings: object) -> float:
        return estimate(toy_teacher, DistillSettings(batch_size=8, **settings), CPU).seconds_per_step / 8

    free = seconds(irl_gradient="free")
    assert seconds(irl="off") == seconds(irl="off", irl_gradient="manifold") == free
    assert seconds(irl="stress", irl_gradient="manifold") == free + 1.5  # half of the images, three calls each
    assert seconds(irl="straight", irl_gradient="manifold") == free + 2.25
    assert seconds(irl="jacobian", irl_gradient="manifold", irl_every=2) == free + 1.5
    assert (
        (free, seconds())
        == (13, 14.5)
        == (costs_of(DistillSettings(irl_gradient="free")).passes, costs_of(DistillSettings()).passes)
    )


def test_a_larger_student_takes_more_memory_and_time(toy_teacher: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(p.numel() for p in toy_teacher.parameters())
    monkeypatch.setattr(
        "gsd_cli.core.distillation.estimate.seconds_per_call",
        lambda model, _device, batch, _: batch * (1 if sum(p.numel() for p in model.parameters()) == size else 10),
    )
    plain = DistillSettings(batch_size=8, irl_gradient="free")
    settings = plain.model_copy(update={"student_depth": 2})
    # a forward of G for the fake score, a forward and a backward for its own step; nine are of the teacher's size
    assert (costs_of(settings).passes, costs_of(settings).generator_passes) == (13, 4)
    assert estimate(toy_teacher, settings, CPU).seconds_per_step == 8 * (9 + 4 * 10)
    assert estimate(toy_teacher, plain, CPU).seconds_per_step == 8 * 13
    kept = [activation_bytes(model, recompute=False) for model in (toy_teacher, grow(toy_teacher, 1, 2))]
    assert estimate(toy_teacher, settings, CPU).activation_bytes == 8 * (2 * kept[0] + kept[1])


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"fake_steps": 3}, {"sidl_weight": 0.0}, {"irl_gradient": "manifold"},
        {"student_steps": 2, "irl_gradient": "manifold"}, {"student_steps": 4, "fake_steps": 3},
    ],
)  # fmt: skip
def test_the_generator_s_passes_are_those_it_makes(toy_teacher: Denoiser, settings: dict[str, object]) -> None:
    """Forward passes by a hook; a backward pass counts for two to the weights, for one to the latents."""
    wanted = DistillSettings(**{"batch_size": 8, "irl_gradient": "free", **settings})
    task = Distillation(toy_teacher, wanted, 4, CPU, lambda *_: {})
    seen: list[int] = []
    task.generator.denoiser.register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0])))
    run_step(task, 3)  # the isometric term is off at first
    to_latents = 0.5 if wanted.irl_gradient == "manifold" else 0  # of half of the images
    assert costs_of(wanted).generator_passes == sum(seen) / 8 + wanted.student_steps * (2 + to_latents)
    again = costs_of(wanted.model_copy(update={"recompute": True})).generator_passes
    assert again == pytest.approx(costs_of(wanted).generator_passes * 4 / 3)


def test_a_discriminator_is_counted() -> None:
    off, one = costs_of(DistillSettings(adversarial="off")).passes, costs_of(DistillSettings(adversarial=2.0)).passes
    assert off < one < 1.25 * off
    assert costs_of(DistillSettings(adversarial="auto")).passes == off
    two = costs_of(DistillSettings(adversarial=2.0, discriminator_steps=2)).passes
    assert one - off < two - off < 2 * (one - off)


@pytest.mark.parametrize("guidance", ["off", "2", "teacher:2"])
@pytest.mark.parametrize("fake_score", ["bounded", "plain"])
def test_guidance_is_counted_by_the_rows_it_calls(guidance: str, fake_score: str) -> None:
    """Rows of the teacher and the fake score by hooks on their networks, as the costs count them."""
    settings = DistillSettings(guidance=guidance, fake_score=fake_score, batch_size=6, irl="off", precision="fp32")
    teacher = Denoiser(dit(), BetaSchedule.linear(), kind=DIT)
    task = Distillation(teacher, settings, 4, CPU, lambda *_: {}, pixels=False)
    rows: dict[str, list[int]] = {"teacher": [], "fake": []}
    task.teacher.register_forward_hook(lambda _m, inputs, _o: rows["teacher"].append(len(inputs[0])))
    task.fake_score.network.register_forward_hook(lambda _m, inputs, _o: rows["fake"].append(len(inputs[0])))
    run_step(task, 0)
    updates = 1 if fake_score == "bounded" else 0
    # each forward in the generator's loss has the images' half of its backward pass, each update of the fake score two
    judged = 2 * (sum(rows["teacher"]) - (rows["teacher"][0] if updates else 0)) + 2 * rows["fake"][1]
    trained = 3 * rows["fake"][0] + (rows["teacher"][0] if updates else 0)
    assert costs_of(settings).passes == 4 + 1 + (judged + trained) / 6


@pytest.mark.parametrize("micro_batch", [None, 16])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_call_has_a_price_of_its_own(
    device: str, micro_batch: int | None, toy_teacher: Denoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call takes 3 s and 0.5 s for each image: 8 of them say little of 64. A GPU is asked for the whole call."""
    asked: list[int] = []

    def seconds(_model: Denoiser, _device: torch.device, batch: int, precision: str) -> float:
        assert precision == "bf16"
        asked.append(batch)
        return 3 + batch / 2

    monkeypatch.setattr("gsd_cli.core.distillation.estimate.seconds_of", seconds)
    monkeypatch.setattr("gsd_cli.core.distillation.estimate._choose", lambda *_: "bf16")
    settings = DistillSettings(batch_size=64, micro_batch=micro_batch, irl_gradient="free")
    found = estimate(toy_teacher, settings, torch.device(device)).seconds_per_step
    size = micro_batch or 64
    assert found == pytest.approx(costs_of(settings).passes * 64 / size * (3 + size / 2))
    assert asked == ([2, 8] if device == "cpu" else [size])
