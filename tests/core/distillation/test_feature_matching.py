"""Feature matching: the axes and the gap in closed form, and what the term does in a distillation."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.core.distillation import feature_matching
from gsd_cli.core.distillation.feature_matching import FeatureMatching, principal_axes
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.training.unets import build_unet
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.options import DistillSettings
from tests.support.stepping import run_step

CPU = torch.device("cpu")


def make(teacher: Denoiser, data: ImageArchive | None, **settings: object) -> Distillation:
    values = {"batch_size": 8, "feature_matching": 2.0, "irl": "off", **settings}
    return Distillation(teacher, DistillSettings(**values), 100, CPU, lambda *_: {}, data=data)


@pytest.fixture
def data(toy_archive_path: Path) -> ImageArchive:
    return ImageArchive(toy_archive_path)


@pytest.fixture
def matching(toy_teacher: Denoiser, data: ImageArchive) -> FeatureMatching:
    term = make(toy_teacher, data, precision="fp32").matching
    assert term.axes.directions.shape[1] == len(term._gap)
    return term


# -- in closed form -------------------------------------------------------------------------------


def test_axes_whiten_what_varies_most() -> None:
    random = torch.Generator().manual_seed(1)
    mixing = torch.randn(6, 6, generator=random)
    features = torch.randn(500, 6, generator=random) @ mixing + 3
    axes = principal_axes(features, 4)
    along = axes.project(features)
    assert along.shape == (500, 4)
    torch.testing.assert_close(along.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cov(along.T), torch.eye(4), atol=1e-4, rtol=0)
    # the squared singular values of centred data are its variances, times N - 1
    _, singular, right = torch.linalg.svd(features - features.mean(0), full_matrices=False)
    assert (axes.directions[:, 0] @ right[0]).abs() == pytest.approx(499**0.5 / singular[0].item(), rel=1e-4)


def test_directions_without_variance_are_left_out() -> None:
    plane = torch.randn(100, 2, generator=torch.Generator().manual_seed(2))
    features = torch.cat([plane, torch.ones(100, 3)], 1)
    assert principal_axes(features, 4).directions.shape == (5, 2)


def test_the_gap_is_the_mean_of_all_images_then_of_the_last(matching: FeatureMatching) -> None:
    k = len(matching._gap)
    for i in range(1, 5):
        matching._update_gap(torch.full((k,), float(i)), torch.full((k, k), 10.0 * i))
    torch.testing.assert_close(matching._gap, torch.full((k,), 2.5))
    torch.testing.assert_close(matching._spread, torch.full((k, k), 25.0))
    for _ in range(20 * feature_matching.SPREAD_MEMORY // 8):
        matching._update_gap(torch.full((k,), 7.0), torch.full((k, k), 3.0))
    torch.testing.assert_close(matching._gap, torch.full((k,), 7.0), rtol=1e-4, atol=0)
    torch.testing.assert_close(matching._spread, torch.full((k, k), 3.0), rtol=1e-4, atol=0)


def test_a_batch_that_is_not_finite_leaves_no_trace(matching: FeatureMatching) -> None:
    k = len(matching._gap)
    matching._update_gap(torch.ones(k), torch.ones(k, k))
    before = {name: value.clone() for name, value in matching.tensors().items()}
    matching._update_gap(torch.full((k,), torch.nan), torch.ones(k, k))
    matching._update_gap(torch.ones(k), torch.full((k, k), torch.inf))
    assert all(torch.equal(value, before[name]) for name, value in matching.tensors().items())


def test_its_weight_holds_the_ratio_at_a_gap_of_one(matching: FeatureMatching) -> None:
    matching._gap = torch.zeros_like(matching._gap)
    matching._gap[0] = 0.5
    sidl, own = torch.tensor(6.0), torch.tensor(3.0)
    assert matching.weigh(own, sidl)[0] == 0, "the gap is of too few images"
    matching._seen = torch.tensor(float(feature_matching.MEMORY))
    weight, figures = matching.weigh(own, sidl)
    assert weight == pytest.approx(2.0 * 0.5 * 6 / 3)
    assert figures["feature_gap"] == 0.5
    assert figures["matching_ratio"] == pytest.approx(1.0)


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_its_gradient_is_that_of_the_features_along_the_gap(
    matching: FeatureMatching, data: ImageArchive, spread: float
) -> None:
    images = data.batch(torch.arange(8)) * 0.5
    random, k = torch.Generator().manual_seed(3), len(matching._gap)
    matching._gap = torch.randn(k, generator=random)
    matching._spread = spread * torch.randn(k, k, generator=random)
    matching._spread = matching._spread + matching._spread.T
    matching._spread_seen = torch.tensor(float(feature_matching.SPREAD_MEMORY))
    assert matching.gap.item() == pytest.approx(
        (matching._gap.square().sum() + matching._spread.square().sum() / 4).sqrt().item()
    )
    mean, moments, size = matching._gap.clone(), matching._spread.clone(), matching.gap
    noise = matching.draws.normal("matching", 4)

    def along(x: Tensor) -> float:
        # d gap = (m dm + <S, dC> / 4) / gap, with means m and second moments C
        p = matching.axes.project(matching._features(x, noise))
        return ((p.mean(0) @ mean + (moments * (p.T @ p) / len(p)).sum() / 4) / size).item()

    gradient = matching.measure(images, 4)
    way, step = gradient / gradient.norm(), 0.05
    found = (along(images + step * way) - along(images - step * way)) / (2 * step)
    assert found == pytest.approx(gradient.norm().item(), rel=0.02)


def test_the_gap_is_the_frechet_distance_to_second_order(matching: FeatureMatching) -> None:
    k = len(matching._gap)
    means, scales = 0.02 * torch.arange(k).double(), 1 + 0.02 * torch.linspace(-1, 1, k).double()
    matching._gap = means.float()
    matching._spread = torch.diag(scales**2 - 1).float()
    matching._spread_seen = torch.tensor(float(feature_matching.SPREAD_MEMORY))
    exact = means.square().sum() + (1 + scales**2 - 2 * scales).sum()  # Gaussians N(m, C) and N(0, I)
    assert matching.gap.item() ** 2 == pytest.approx(exact.item(), rel=0.03)


def test_a_checkpoint_without_second_moments_begins_them(matching: FeatureMatching) -> None:
    old = {k: v for k, v in matching.tensors().items() if "spread" not in k} | {"matching_gap": matching._gap + 1}
    matching.load(old)
    k = len(matching._gap)
    assert matching._spread.shape == (k, k) and matching._spread_seen == 0
    assert matching.gap.item() == pytest.approx(k**0.5)


def test_real_images_have_no_gap_and_others_have(toy_teacher: Denoiser, data: ImageArchive) -> None:
    gaps = []
    for factor in (1.0, 0.3):
        term = make(toy_teacher, data, batch_size=len(data), precision="fp32").matching
        for step in range(8):
            term.measure(factor * data.batch(torch.arange(len(data))), step)
        gaps.append(term.gap.item())
    # only the noise differs between the images that the axes are of and those that are measured
    assert gaps[0] < 0.3
    assert gaps[1] > 3 * gaps[0]


# -- in a distillation ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "real"),
    [
        ({"feature_matching": "off"}, True), ({"feature_matching": 0.0}, True), ({"feature_matching": "auto"}, False),
        ({"feature_matching": "auto", "adversarial": "off"}, True),
        ({"feature_matching": "auto", "sidl_weight": 0}, True),
    ],
)  # fmt: skip
def test_off_it_is_not_there(toy_teacher: Denoiser, data: ImageArchive, settings: dict, real: bool) -> None:
    task = make(toy_teacher, data if real else None, **settings)
    assert not task.matching.on
    assert not any(name.startswith("matching") for name in task.tensors())
    assert "feature_gap" not in run_step(task, 0)


def test_by_default_it_follows_the_discriminator(toy_teacher: Denoiser, data: ImageArchive) -> None:
    assert make(toy_teacher, data, feature_matching="auto").matching.ratio == 2.0


def test_labels_decide_where_the_teacher_has_classes(data: ImageArchive) -> None:
    torch.manual_seed(3)
    teacher = Denoiser(build_unet("tiny", 16, 1, 3), BetaSchedule.linear())
    assert not make(teacher, data).matching.on


def test_without_real_images_it_is_refused(toy_teacher: Denoiser) -> None:
    with pytest.raises(GsdError, match="feature matching needs real images") as caught:
        make(toy_teacher, None, adversarial="off")
    assert caught.value.code == ExitCode.USAGE
    assert "--feature-matching off" in (caught.value.hint or "")


def test_it_moves_the_generator_alone(
    toy_teacher: Denoiser, data: ImageArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_matching, "MEMORY", 8)
    plain, matched = (make(toy_teacher, data, feature_matching=ratio) for ratio in ("off", 2.0))
    for step in range(2):
        first, second = run_step(plain, step), run_step(matched, step)
        # the first gap is known at the second step
        assert second["matching_weight"] > 0 if step else second["matching_weight"] == 0
        assert first["fake_loss"] == second["fake_loss"]
    assert second["matching_ratio"] == pytest.approx(2.0 * second["feature_gap"], rel=1e-3)
    moved = zip(plain.generator.parameters(), matched.generator.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in moved)


@pytest.mark.slow
def test_the_generator_closes_the_gap(
    toy_teacher: Denoiser, data: ImageArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_matching, "MEMORY", 64)
    gaps = []
    for ratio in (1e-9, 10.0):  # never, and strongly
        task = make(toy_teacher, data, feature_matching=ratio, adversarial="off", lr=3e-4)
        gaps.append([run_step(task, step)["feature_gap"] for step in range(24)][-1])
    assert gaps[1] < 0.7 * gaps[0]


def test_micro_batches_change_nothing(
    toy_teacher: Denoiser, data: ImageArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_matching, "MEMORY", 8)
    images = data.batch(torch.arange(8)) * 0.5
    whole, split = (make(toy_teacher, data, micro_batch=k, precision="fp32").matching for k in (None, 3))
    for step in range(3):
        a, b = whole.measure(images, step), split.measure(images, step)
        assert torch.allclose(a, b, atol=1e-4 * a.abs().max().item())
        assert whole.gap.item() == pytest.approx(split.gap.item(), rel=1e-4)


def test_a_resumed_run_is_the_same_to_the_bit(
    toy_teacher: Denoiser, data: ImageArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_matching, "MEMORY", 8)
    straight, stopped, resumed = (make(toy_teacher, data) for _ in range(3))
    for step in range(4):
        expected = run_step(straight, step)
    for step in range(2):
        run_step(stopped, step)
    resumed.load({k: v.clone() for k, v in stopped.tensors().items()})
    for step in range(2, 4):
        found = run_step(resumed, step)
    assert found == expected
    assert all(torch.equal(v, resumed.tensors()[k]) for k, v in straight.tensors().items())


def test_a_checkpoint_from_before_the_term_goes_on(toy_teacher: Denoiser, data: ImageArchive) -> None:
    before = make(toy_teacher, data, feature_matching="off")
    run_step(before, 0)
    after = make(toy_teacher, data)
    after.load(before.tensors())
    assert run_step(after, 1)["matching_weight"] == 0


def test_real_images_are_looked_at_once(
    toy_teacher: Denoiser, data: ImageArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before the first step, and not again by a run that is resumed."""
    first, resumed = make(toy_teacher, data), make(toy_teacher, data)
    assert not first.matching.tensors()
    run_step(first, 0)
    resumed.load({k: v.clone() for k, v in first.tensors().items()})
    monkeypatch.setattr(FeatureMatching, "_axes_of_real", lambda self: pytest.fail("looked at again"))
    run_step(resumed, 1)
