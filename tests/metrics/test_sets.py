"""Measures between sets of features: against torch-fidelity, and where the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from gsd_cli.base.errors import GsdError
from gsd_cli.metrics.frechet_error import extrapolate, jackknife_error
from gsd_cli.metrics.kid import kernel_distance
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
    assert ours.subset_size == 100
    assert ours.mean == pytest.approx(theirs["kernel_inception_distance_mean"], abs=6 * ours.std / math.sqrt(200))
    assert ours.std == pytest.approx(theirs["kernel_inception_distance_std"], rel=0.3)


def test_kid_is_unbiased(real: torch.Tensor) -> None:
    """Halves of one set: zero on average, though each estimate is not."""
    found = kernel_distance(real[:350], real[350:], 300, 50)
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
    found = extrapolate(features, EXACT, smallest=200)
    assert at_n > 0.08
    assert abs(found.value) < 0.1 * at_n
    assert 0 < found.error < 0.02


def test_the_jackknife_error_is_the_spread_of_repeats() -> None:
    shifted = [gaussian(2000, k) + 0.5 for k in range(40)]
    distances = [frechet_distance(gaussian_statistics([x], "test"), EXACT) for x in shifted]
    errors = [jackknife_error(x, EXACT) for x in shifted[:10]]
    assert np.mean(errors) == pytest.approx(np.std(distances), rel=0.4)
