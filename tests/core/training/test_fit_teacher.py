from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from gsd_cli.core.models.diffusers_folder import load_denoiser, save_denoiser
from gsd_cli.core.training.fit_features import FeatureFit
from gsd_cli.core.training.fit_teacher import TeacherFit
from gsd_cli.core.training.loop import Cadence, train
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.options import FitSettings
from tests.support.timeless import timeless

EVERY = Cadence(evaluate_steps=100, log_steps=1, checkpoint_seconds=0.0)


@pytest.fixture
def data(toy_archive_path: Path) -> ImageArchive:
    return ImageArchive(toy_archive_path)


@pytest.fixture(autouse=True)
def _no_grids(monkeypatch: pytest.MonkeyPatch) -> None:
    # 64 samples of 25 steps are the cost of a run this short
    monkeypatch.setattr("gsd_cli.core.training.fit_teacher.GRID_SEEDS", range(2))


def fit(data: ImageArchive, run: Path, **changes: object) -> TeacherFit:
    values = {"architecture": "tiny", "steps": 6, "batch_size": 5, "warmup_steps": 2, **changes}
    return TeacherFit(data, FitSettings(**values), run, torch.device("cpu"))


def test_a_few_steps_lower_the_loss(data: ImageArchive, tmp_path: Path) -> None:
    task = fit(data, tmp_path, steps=12, batch_size=8, lr=1e-2)
    losses = [task.step(step)["loss"] for step in range(12)]
    assert losses[0] == pytest.approx(1, abs=0.5)  # a fresh network explains none of the noise
    assert max(losses[-4:]) < 0.5 * losses[0]


def test_a_resumed_fit_is_bit_identical(data: ImageArchive, tmp_path: Path) -> None:
    straight = fit(data, tmp_path / "a")
    reports = list(train(straight, 6, tmp_path / "a", EVERY))
    assert reports[-1].evaluation
    assert list((tmp_path / "a" / "samples").iterdir())
    first, calls = fit(data, tmp_path / "b"), iter(range(1, 9))
    for _ in train(first, 6, tmp_path / "b", EVERY, lambda: next(calls) == 3):
        pass
    torch.manual_seed(55)
    second = fit(data, tmp_path / "b")
    assert [r.step for r in train(second, 6, tmp_path / "b", EVERY)] == [4, 5, 6]
    a, b = straight.tensors(), second.tensors()
    assert a.keys() == b.keys()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []
    assert timeless(tmp_path / "a") == timeless(tmp_path / "b")


def test_the_start_depends_on_the_seed_alone(data: ImageArchive, tmp_path: Path) -> None:
    def weights(seed: int) -> torch.Tensor:
        return next(fit(data, tmp_path, seed=seed).net.parameters()).detach()

    before = torch.random.get_rng_state()
    one = weights(1)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(9)
    assert torch.equal(one, weights(1))
    assert not torch.equal(one, weights(2))


@pytest.mark.parametrize("batch_size", [5, 12, 24])
def test_every_image_appears_once_an_epoch(data: ImageArchive, tmp_path: Path, batch_size: int) -> None:
    task = fit(data, tmp_path, batch_size=batch_size)
    epochs = 10
    drawn = torch.cat([task._indices(step) for step in range(12 * epochs // batch_size)])
    orders = drawn.reshape(epochs, 12)
    assert (orders.sort(dim=1).values == torch.arange(12)).all()
    assert len({tuple(order) for order in orders.tolist()}) == epochs
    # addressed by position: a batch does not depend on the ones before it
    fresh = fit(data, tmp_path, batch_size=batch_size)
    assert torch.equal(fresh._indices(3), drawn[3 * batch_size : 4 * batch_size])


def test_learning_rate_follows_the_trapezoid(data: ImageArchive, tmp_path: Path) -> None:
    task = fit(data, tmp_path, steps=8, warmup_steps=2, decay=0.5, lr=1e-3, batch_size=2)
    rates = [task.step(step)["lr"] for step in range(8)]
    assert rates == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3, 1e-3, 7.5e-4, 5e-4, 2.5e-4])


@pytest.mark.parametrize("objective", ["eps", "flow"])
def test_the_average_is_a_teacher(data: ImageArchive, tmp_path: Path, objective: str) -> None:
    task = fit(data, tmp_path, objective=objective)
    task.step(0)
    save_denoiser(task.denoiser(), tmp_path / "teacher", half=False)
    assert load_denoiser(tmp_path / "teacher").shape == data.shape == (1, 16, 16)


@pytest.mark.parametrize("kind", ["teacher", "features"])
def test_one_gradient_that_is_not_finite_leaves_the_network_as_it_was(
    kind: str, toy_archive_path: Path, tmp_path: Path
) -> None:
    """Its loss is finite: the gradient alone is looked at, and the step is counted as skipped."""
    data, cpu = ImageArchive(toy_archive_path), torch.device("cpu")
    settings = FitSettings(architecture="tiny", batch_size=2)
    task = TeacherFit(data, settings, tmp_path, cpu) if kind == "teacher" else FeatureFit(data, None, 10, 0, cpu)
    parameter = next(task.net.parameters())
    handle = parameter.register_hook(lambda gradient: gradient / 0)
    before = [p.detach().clone() for p in task.net.parameters()]
    metrics = task.step(0)
    assert metrics["skipped"] == 1
    assert all(torch.equal(a, b) for a, b in zip(before, task.net.parameters(), strict=True))
    handle.remove()
    assert all(math.isfinite(value) for value in task.step(1).values())
    assert not torch.equal(before[0], parameter)
