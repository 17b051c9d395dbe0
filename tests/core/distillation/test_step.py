from __future__ import annotations

import copy
import itertools
import json
import math
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.base.lock import exclusive
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.training import report as reports
from gsd_cli.core.training.checkpoint import CheckpointStore
from gsd_cli.core.training.loop import Cadence, train
from gsd_cli.options import DistillSettings
from tests.support.stepping import GOOD, run_step
from tests.support.timeless import timeless

CPU = torch.device("cpu")
EVERY = Cadence(evaluate_steps=2, log_steps=1, checkpoint_seconds=0.0)


def pixels(images: Tensor) -> Tensor:
    """A feature map that costs nothing."""
    return torch.nn.functional.avg_pool2d(images, 2).flatten(1)


def measure(generator: Generator, step: int) -> dict[str, float]:
    z = torch.linspace(-1, 1, 256).reshape(1, 1, 16, 16)
    with torch.no_grad():
        return {"mean_image": generator(z).mean().item()}


def make(teacher: Denoiser, total: int = 6, phi: Callable | None = None, **settings: object) -> Distillation:
    values = {"batch_size": 8, **settings}
    return Distillation(teacher, DistillSettings(**values), total, CPU, measure, phi)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def snapshot(module: torch.nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items()}


@pytest.mark.parametrize(
    ("half", "settings"),
    [
        (3, {}),
        (2, {"fake_steps": 2, "irl": "off", "clip_grad": 1.0}),
        (2, {"dropout": 0.3}),
        (2, {"irl": "literal", "irl_every": 2}),
        (2, {"adapters": "2"}),
        (2, {"student_steps": 2, "micro_batch": 3}),
        (2, {"adapters": "fake:2", "recompute": True}),
    ],
    ids=["auto", "plain", "dropout", "extra", "adapters", "two steps", "adapted fake score"],
)
@pytest.mark.fault(7, "a training resumed at half")
def test_a_resumed_run_is_bit_identical(toy_teacher: Denoiser, tmp_path: Path, half: int, settings: dict) -> None:
    total = 2 * half
    straight = make(toy_teacher, total, **settings)
    reports = list(train(straight, total, tmp_path / "straight", EVERY))
    assert [r.step for r in reports] == list(range(1, total + 1))

    torch.manual_seed(77)  # another process has another global state
    first, asked = make(toy_teacher, total, **settings), itertools.count(1)
    reports = list(train(first, total, tmp_path / "halves", EVERY, lambda: next(asked) == half))
    assert reports[-1].step == half
    torch.manual_seed(78)
    second = make(toy_teacher, total, **settings)
    reports = list(train(second, total, tmp_path / "halves", EVERY))
    assert [r.step for r in reports] == list(range(half + 1, total + 1))
    assert reports[0].notes == [f"resumed at step {half}"]

    assert same(straight.tensors(), second.tensors())
    assert not same(straight.tensors(), first.tensors())
    rows = timeless(tmp_path / "straight")
    assert rows == timeless(tmp_path / "halves")
    assert [row["step"] for row in rows] == list(range(total + 1))


def test_training_moves_all_but_the_teacher(toy_teacher: Denoiser) -> None:
    before = snapshot(toy_teacher)
    task = make(toy_teacher)
    assert same(before, snapshot(task.generator.denoiser))
    assert same(before, snapshot(task.fake_score.network))
    for step in range(3):
        run_step(task, step)
    assert same(before, snapshot(toy_teacher))
    assert same(before, snapshot(task.teacher))
    assert all(p.grad is None and not p.requires_grad for p in task.teacher.parameters())
    for module in (task.generator.denoiser, task.fake_score.network, task.average.denoiser):
        assert not same(before, snapshot(module))
    assert not same(snapshot(task.generator), snapshot(task.average))


def test_generator_step_leaves_the_fake_score_alone_and_the_reverse(toy_teacher: Denoiser) -> None:
    task = make(toy_teacher)
    generator = snapshot(task.generator)
    task.fake_score.update(*task._fake_images("fake", 0, 0, batch=None), GOOD, "fake", 0, 0)
    assert same(generator, snapshot(task.generator))
    fake = snapshot(task.fake_score.network)
    task._update_generator(task._generate(0), 0, GOOD)
    assert same(fake, snapshot(task.fake_score.network))
    assert all(p.requires_grad for p in task.fake_score.network.parameters())


@pytest.mark.parametrize("steps", [1, 4])
def test_first_generator_gradient_is_that_of_the_loss(toy_teacher: Denoiser, steps: int) -> None:
    """The gradient sent through G in one pass is the one autograd gives end to end, through all of its calls."""
    task = make(toy_teacher, irl="off", lr=1e-3, student_steps=steps)
    task.fake_score.update(*task._fake_images("fake", 0, 0, batch=None), GOOD, "fake", 0, 0)
    reference = copy.deepcopy(task)
    task._update_generator(task._generate(0), 0, GOOD)

    from gsd_cli.core.distillation.losses import score_identity_loss

    z, noise = reference.draws.normal("generator", 0, "z"), reference.draws.normal("judge", 0)
    sigma = reference.draws.sigma(reference.recipe.generator_sigma, "generator", 0)
    y = reference.generator(z)
    x = y + sigma.reshape(-1, 1, 1, 1) * noise
    f, g = reference.teacher(x, sigma), reference.fake_score.network(x, sigma)
    loss = score_identity_loss(y, f, reference.fake_score.preconditioning.estimate(f, g, sigma)).mean()
    wanted = torch.autograd.grad(loss, list(reference.generator.parameters()))
    for parameter, gradient in zip(task.generator.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-3 * gradient.abs().max().item())


@pytest.mark.slow
def test_auto_weight_holds_the_ratio_to_the_weighted_distillation(toy_teacher: Denoiser) -> None:
    ratio = 0.5
    task = make(toy_teacher, 20, pixels, irl_ratio=ratio, sidl_weight=3.0, batch_size=32)
    rows = [run_step(task, step) for step in range(30)]
    assert [r["irl_weight"] for r in rows[:3]] == [0.0] * 3  # nothing in the first tenth
    # single batches scatter by a factor of three, and the weight follows smoothed norms
    held = sum(r["irl_weight"] * r["irl_norm"] for r in rows[4:]) / sum(r["sidl_norm"] for r in rows[4:])
    assert ratio / 1.5 < held < ratio * 1.5


def test_a_given_weight_is_ramped_and_kept(toy_teacher: Denoiser) -> None:
    task = make(toy_teacher, 20, pixels, irl_weight=0.4)
    weights = [run_step(task, step)["irl_weight"] for step in range(6)]
    assert weights == pytest.approx([0, 0, 0, 0.2, 0.4, 0.4])


@pytest.mark.parametrize("settings", [{"irl": "off"}, {"irl_weight": 0.0}, {"batch_size": 1}])
def test_without_the_isometric_term(toy_teacher: Denoiser, settings: dict) -> None:
    task = make(toy_teacher, 2, pixels, **settings)
    rows = [run_step(task, step) for step in range(2)]
    assert all(r["irl_ratio"] == 0 for r in rows)
    if settings.get("batch_size") != 1:
        assert all(r["irl_weight"] == 0 for r in rows)


def test_without_the_distillation_term(toy_teacher: Denoiser) -> None:
    before = snapshot(toy_teacher)
    task = make(toy_teacher, 10, pixels, sidl_weight=0.0)
    rows = [run_step(task, step) for step in range(2)]
    assert all(r["sidl_loss"] == 0 and r["irl_loss"] > 0 and r["irl_weight"] == 1 for r in rows)
    assert all(math.isfinite(v) for r in rows for v in r.values())
    assert not same(before, snapshot(task.generator.denoiser))
    assert same(before, snapshot(task.fake_score.network))  # nothing would ask it


@pytest.mark.parametrize("batch_size", [2, 4, 8])
def test_metrics_are_numbers_at_every_batch_size(toy_teacher: Denoiser, batch_size: int) -> None:
    task = make(toy_teacher, 1, pixels, batch_size=batch_size, sidl_weight=0.5)
    metrics = [run_step(task, step) for step in range(2)][-1]
    assert metrics
    json.dumps(metrics, allow_nan=False)  # JSON has no NaN


def nan_at(task: Distillation, bad_calls: Callable[[int], bool]) -> None:
    """Make the teacher's network return NaN in those generator's steps that `bad_calls` picks."""
    calls = 0

    def hook(module: object, inputs: object, output: object) -> object:
        nonlocal calls
        if not torch.is_grad_enabled():  # the fake score asks too
            return output
        calls += 1
        if bad_calls(calls):
            output.sample = output.sample * math.nan  # type: ignore[attr-defined]
        return output

    task.teacher.net.register_forward_hook(hook)


@pytest.mark.fault(13, "NaN in the network's output, once")
def test_a_non_finite_step_is_skipped_and_counted(toy_teacher: Denoiser, tmp_path: Path) -> None:
    task = make(toy_teacher, 4)
    nan_at(task, lambda call: call == 3)
    seen, generators, averages = [], [], []
    for report in train(task, 4, tmp_path, EVERY):
        seen.append(report)
        generators.append(snapshot(task.generator))
        averages.append(snapshot(task.average))
    assert [r.skipped for r in seen] == [0, 0, 1, 1]
    assert math.isnan(seen[2].metrics["sidl_loss"])
    assert same(generators[1], generators[2])
    assert same(averages[1], averages[2])
    assert not same(generators[2], generators[3])
    assert all(v.isfinite().all() for v in task.tensors().values())


@pytest.mark.fault(13, "NaN in the network's output, for good")
def test_a_run_that_stays_non_finite_ends_without_a_bad_checkpoint(
    toy_teacher: Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "MAX_BAD_STEPS", 4)
    task = make(toy_teacher, 20)
    nan_at(task, lambda call: call > 2)
    steps: list[int] = []
    with pytest.raises(GsdError, match="diverged") as caught:
        steps.extend(report.step for report in train(task, 20, tmp_path, EVERY))
    assert caught.value.code == 6
    assert steps == [1, 2, 3, 4, 5]
    checkpoint, damaged = CheckpointStore(tmp_path / "checkpoints").latest()
    assert checkpoint is not None
    assert checkpoint.step == 2
    assert damaged == []
    assert all(v.isfinite().all() for v in checkpoint.tensors.values())


def test_a_generator_that_blew_up_does_not_reach_the_fake_score(toy_teacher: Denoiser) -> None:
    task = make(toy_teacher)
    run_step(task, 0)
    with torch.no_grad():
        next(task.generator.parameters()).fill_(math.nan)
    fake = snapshot(task.fake_score.network)
    metrics = run_step(task, 1)
    assert any(not math.isfinite(v) for k, v in metrics.items() if "loss" in k)
    assert same(fake, snapshot(task.fake_score.network))


def _hold(run: str, ready: multiprocessing.Event, done: multiprocessing.Event) -> None:
    with exclusive(Path(run)):
        ready.set()
        done.wait(30)


@pytest.mark.fault(9, "a process that holds the folder")
def test_a_run_folder_is_for_one_process(toy_teacher: Denoiser, tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    ready, done = fork.Event(), fork.Event()
    holder = fork.Process(target=_hold, args=(str(tmp_path), ready, done))
    holder.start()
    try:
        assert ready.wait(30)
        with pytest.raises(GsdError, match="another gsd process") as caught:
            next(train(make(toy_teacher), 1, tmp_path, EVERY))
        assert caught.value.code == 2
        assert not (tmp_path / "metrics.jsonl").exists()
    finally:
        done.set()
        holder.join(30)
    with exclusive(tmp_path):
        pass


def test_two_trainings_in_one_process_exclude_each_other(tmp_path: Path) -> None:
    with exclusive(tmp_path), pytest.raises(GsdError) as caught, exclusive(tmp_path):
        pass
    assert caught.value.code == 2


@pytest.mark.parametrize(("t_min", "t_max"), [(20, 793), (100, 100)])
def test_noise_levels_are_uniform_between_the_two_timesteps(toy_teacher: Denoiser, t_min: int, t_max: int) -> None:
    task = make(toy_teacher, batch_size=4000, noise="ddpm", t_min=t_min, t_max=t_max)
    t = task.teacher.schedule.timestep(task.draws.sigma(task.recipe.generator_sigma, "any")).round()
    assert t.min() >= t_min
    assert t.max() <= t_max
    spread = t_max - t_min
    assert t.mean().item() == pytest.approx((t_min + t_max) / 2, abs=0.02 * spread + 1e-3)
    assert t.std().item() == pytest.approx(spread / 12**0.5, rel=0.05, abs=1e-3)
