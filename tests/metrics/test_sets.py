"""Measures between sets of features: against torch-fidelity, and where the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from gsd_cli.base.errors import GsdError
from gsd_cli.metrics.frechet_error import Precision, measure_precision, reason_for_no_infinity
from gsd_cli.metrics.image_quality import Real, frechet_figures
from gsd_cli.metrics.kid import kernel_distance, kernel_error, squared_discrepancy
from gsd_cli.metrics.precision_recall import precision_recall
from gsd_cli.metrics.statistics import Statistics, frechet_distance, gaussian_statistics


@pytest.fixture(scope="module")
def made() -> torch.Tensor:
    return torch.randn(600, 24, generator=torch.Generator().manual_seed(1)) * 0.8 + 0.3


@pytest.fixture(scope="module")
def real() -> torch.Tensor:
    return torch.randn(700, 24, generator=torch.Generator().manual_seed(2))


def test_kid_is_torch_fidelitys(made: torch.Tensor, real: torch.Tensor) -> None:
    """One subset of everything has no choice in it."""
    real = real[:600]
    theirs = kid_features_to_metric(
        made.double(), real.double(), kid_subsets=1, kid_subset_size=600, verbose=False, rng_seed=0
    )["kernel_inception_distance_mean"]
    assert kernel_distance(made, real, 1, 600).mean == pytest.approx(theirs, rel=1e-9)


def test_kid_by_subsets_agrees_within_its_spread(made: torch.Tensor, real: torch.Tensor) -> None:
    theirs = kid_features_to_metric(
        made.double(), real.double(), kid_subsets=200, kid_subset_size=100, verbose=False, rng_seed=0
    )
    ours = kernel_distance(made, real, 200, 100)
    assert ours.subset_size == 100 and ours.std is not None
    assert ours.mean == pytest.approx(theirs["kernel_inception_distance_mean"], abs=6 * ours.std / math.sqrt(200))
    assert ours.std == pytest.approx(theirs["kernel_inception_distance_std"], rel=0.3)


def test_kid_is_unbiased(real: torch.Tensor) -> None:
    """Halves of one set: zero on average, though each estimate is not."""
    found = kernel_distance(real[:350], real[350:], 300, 50)
    assert found.std is not None
    assert abs(found.mean) < 4 * found.std / math.sqrt(300) + 1e-3
    assert found.std > 0


def test_precision_and_recall_are_torch_fidelitys(made: torch.Tensor, real: torch.Tensor) -> None:
    theirs = prc_features_to_metric(
        made, real, prc_neighborhood=3, prc_batch_size=100, save_cpu_ram=True, verbose=False
    )
    ours = precision_recall(made, real)
    assert ours.precision == pytest.approx(theirs["precision"], abs=1e-6)
    assert ours.recall == pytest.approx(theirs["recall"], abs=1e-6)
    assert 0.2 < ours.recall < ours.precision < 1


def test_manifold_of_known_cases(real: torch.Tensor) -> None:
    itself = precision_recall(real, real)
    assert (itself.precision, itself.recall, itself.coverage) == (1.0, 1.0, 1.0)
    far = precision_recall(real + 100, real)
    assert (far.precision, far.recall, far.density, far.coverage) == (0.0, 0.0, 0.0, 0.0)
    twin = precision_recall(torch.randn(700, 24, generator=torch.Generator().manual_seed(3)), real)
    assert twin.density == pytest.approx(1, abs=0.15)  # Naeem et al.: 1 in expectation for equal sets
    assert twin.coverage == pytest.approx(1 - 0.5**5, abs=0.05)


def test_density_by_hand() -> None:
    """Real points 0, 1, ..., 9 on a line, k = 5; a made point at 4.5 and far ones."""
    real = torch.arange(10.0).reshape(-1, 1)
    made = torch.tensor([[4.5], *[[1000.0 + i] for i in range(9)]])
    radii = [sorted(abs(i - j) for j in range(10))[5] for i in range(10)]
    holds = sum(abs(4.5 - i) < r for i, r in enumerate(radii))
    found = precision_recall(made, real)
    assert found.density == pytest.approx(holds / (5 * 10))
    assert found.coverage == pytest.approx(holds / 10)


@pytest.mark.parametrize("few", [1, 5])
def test_too_few_images_are_an_input_error(real: torch.Tensor, few: int) -> None:
    with pytest.raises(GsdError) as caught:
        precision_recall(real[:few], real)
    assert caught.value.code == 3
    with pytest.raises(GsdError):
        kernel_distance(real[:1], real)


def gaussian(n: int, seed: int, d: int = 12) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


EXACT = Statistics(np.zeros(12), np.eye(12), 10**9, "test")


def test_the_extrapolation_removes_the_bias() -> None:
    """Both sides N(0, I): the distance at finite N is above 0, at infinite N it is 0."""
    features = gaussian(4000, 1)
    at_n = frechet_distance(gaussian_statistics([features[:400]], "test"), EXACT)
    found = measure_precision(features[:400], EXACT).infinity
    assert found is not None
    assert at_n > 0.08
    assert abs(found.value) < 2 * found.error < 0.08


def test_the_extrapolation_is_unbiased_at_small_n_and_its_error_bar_is_honest() -> None:
    """Subsets of n / 10 = 25 images, fewer than the 32 features, would be off by half of the distance."""
    n, d, repeats = 256, 32, 16
    scale = torch.linspace(0.5, 1.5, d, dtype=torch.float64)
    truth = ((scale - 1) ** 2).sum().item() + d * 0.01
    reference = Statistics(np.zeros(d), np.eye(d), 10**9, "test")
    found, plain = [], []
    for k in range(repeats):
        x = scale * gaussian(n, k, d) + 0.1
        found.append(measure_precision(x, reference).infinity)
        plain.append(frechet_distance(gaussian_statistics([x], "test"), reference))
    values = np.array([one.value for one in found if one])
    errors = np.array([one.error for one in found if one])
    bias = np.mean(plain) - truth
    assert bias > 0.5
    assert abs(values.mean() - truth) < 0.1 * bias + 3 * values.std() / math.sqrt(repeats)
    assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.5)
    held = np.abs(values - truth) < 1.96 * errors
    assert held.mean() > 0.8


def test_the_figure_does_not_depend_on_the_order_of_the_images_but_for_its_seed() -> None:
    """Sorted by class as they may be: the parts are random ones."""
    centres = 10 * torch.eye(12, dtype=torch.float64)[:4]
    made = gaussian(800, 5) + centres.repeat_interleave(200, 0)
    mixed = made[torch.randperm(800, generator=torch.Generator().manual_seed(1))]
    found, other = (measure_precision(x, EXACT) for x in (made, mixed))
    assert found.infinity is not None and other.infinity is not None
    assert found.error == pytest.approx(other.error, rel=0.4)
    assert measure_precision(made, EXACT, to_infinity=False) == Precision(found.error, None)
    assert abs(found.infinity.value - other.infinity.value) < 0.3 * found.error


@pytest.mark.parametrize(("n", "size", "there"), [(199, 4, False), (200, 4, True), (255, 128, False),
                                                  (340, 128, False), (342, 128, True), (512, 128, True)])  # fmt: skip
def test_too_few_images_have_no_value_at_infinity_and_the_reason_is_said(n: int, size: int, there: bool) -> None:
    reference = Statistics(np.zeros(size), np.eye(size), 10**9, "test")
    figures = frechet_figures(gaussian(n, 0, size), Real(reference, "exact"))
    assert ("fd_infinity" in figures) == there
    reason = reason_for_no_infinity(n, size)
    assert (reason is None) == there
    assert there or "images" in str(reason)


def test_the_jackknife_error_is_the_spread_of_repeats() -> None:
    shifted = [gaussian(2000, k) + 0.5 for k in range(40)]
    distances = [frechet_distance(gaussian_statistics([x], "test"), EXACT) for x in shifted]
    errors = [measure_precision(x, EXACT).error for x in shifted[:4]]
    assert np.mean(errors) == pytest.approx(np.std(distances), rel=0.35)


def test_kid_has_no_spread_where_all_subsets_are_one() -> None:
    made, true = gaussian(300, 1).float(), gaussian(300, 2).float()
    whole = kernel_distance(made, true, 100, 300)
    assert whole.std is None and whole.subsets == 1
    assert whole.mean == pytest.approx(squared_discrepancy(made.double(), true.double()).item())
    assert kernel_distance(made, true, 5, 200).std is None  # they share most of their images
    assert kernel_distance(made, true, 5, 100).std is not None
    assert kernel_distance(made[:150], true, 5, 150).std is None


def test_kids_error_is_the_spread_of_repeats() -> None:
    def pair(k: int) -> tuple[torch.Tensor, torch.Tensor]:
        return gaussian(300, 2 * k).float() + 0.2, gaussian(400, 2 * k + 1).float()

    values = [kernel_distance(*pair(k), 8, 300).mean for k in range(30)]
    errors = [kernel_error(*pair(k)) for k in range(10)]
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.5)
