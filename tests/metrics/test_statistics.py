from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from gsd_cli.base.errors import GsdError
from gsd_cli.metrics.statistics import LARGEST, NAMES, Statistics, frechet_distance, gaussian_statistics


def gaussian(rng: np.random.Generator, d: int) -> tuple[np.ndarray, np.ndarray]:
    a = rng.normal(size=(d, d))
    return rng.normal(size=d), a @ a.T / d


def of(mu: np.ndarray, sigma: np.ndarray) -> Statistics:
    return Statistics(mu, sigma, 100, "toy")


@pytest.mark.fault(18, "Gaussians")
def test_diagonal_gaussians_give_the_closed_form() -> None:
    a, b = np.array([4.0, 1.0, 0.0]), np.array([1.0, 1.0, 9.0])
    mu = np.array([1.0, 2.0, 3.0])
    expected = (mu**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(of(mu, np.diag(a)), of(np.zeros(3), np.diag(b))) == pytest.approx(expected, rel=1e-12)


def test_agrees_with_the_matrix_root_of_clean_fid() -> None:
    rng = np.random.default_rng(0)
    (mu_a, sigma_a), (mu_b, sigma_b) = gaussian(rng, 24), gaussian(rng, 24)
    # clean-fid's formula, with SciPy's matrix square root
    root = scipy.linalg.sqrtm(sigma_a @ sigma_b).real
    expected = ((mu_a - mu_b) ** 2).sum() + np.trace(sigma_a + sigma_b - 2 * root)
    assert frechet_distance(of(mu_a, sigma_a), of(mu_b, sigma_b)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.fault(18, "equal, singular sets")
def test_equal_sets_are_at_zero_even_when_singular() -> None:
    rng = np.random.default_rng(1)
    features = torch.from_numpy(rng.normal(size=(5, 12)))  # N below the dimension
    found = gaussian_statistics([features], "toy")
    assert np.linalg.matrix_rank(found.sigma) == 4
    assert frechet_distance(found, found) == pytest.approx(0, abs=1e-6)


def test_one_pass_over_any_batching_equals_numpy() -> None:
    rng = np.random.default_rng(2)
    features = 1e4 + rng.normal(size=(301, 7))  # a large mean: naive sums would lose digits
    for size in (1, 50, 301):
        found = gaussian_statistics(torch.from_numpy(features).split(size), "toy")
        np.testing.assert_allclose(found.mu, features.mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.sigma, np.cov(features, rowvar=False), rtol=1e-9, atol=1e-12)
        assert found.n == 301


@pytest.mark.fault(18, "one image")
def test_fewer_than_two_images_have_no_covariance() -> None:
    with pytest.raises(GsdError, match="no covariance"):
        gaussian_statistics([torch.zeros(1, 3)], "toy")


@pytest.mark.fault(18, "statistics of other features")
def test_features_of_different_kinds_are_refused() -> None:
    a, b = Statistics(np.zeros(2), np.eye(2), 9, "x"), Statistics(np.zeros(2), np.eye(2), 9, "y")
    with pytest.raises(GsdError, match="cannot be compared"):
        frechet_distance(a, b)


@pytest.mark.fault(18, "damaged statistics")
def test_files_round_trip_and_damage_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    stats = Statistics(*gaussian(rng, 5), 77, "toy", {"split": "train"})
    path = stats.save(tmp_path / "s.npz")
    again = Statistics.load(path)
    np.testing.assert_array_equal(again.sigma, stats.sigma)
    assert (again.n, again.extractor, again.about) == (77, "toy", {"split": "train"})
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(GsdError, match=r"s\.npz"):
        Statistics.load(path)
    np.savez(tmp_path / "edm.npz", mu=np.zeros(3), sigma=np.eye(3))
    assert Statistics.load(tmp_path / "edm.npz").extractor == "inception"
    np.savez(tmp_path / "odd.npz", mu=np.zeros(3), sigma=np.eye(4))
    with pytest.raises(GsdError, match="no mean and covariance"):
        Statistics.load(tmp_path / "odd.npz")


@pytest.mark.parametrize("names", NAMES, ids="-".join)
def test_means_and_covariances_under_other_names(names: tuple[str, str], tmp_path: Path) -> None:
    mu, sigma = gaussian(np.random.default_rng(4), 5)
    np.savez(tmp_path / "s.npz", **{names[0]: mu, names[1]: sigma})
    found = Statistics.load(tmp_path / "s.npz")
    np.testing.assert_array_equal(found.mu, mu)
    np.testing.assert_array_equal(found.sigma, sigma)
    assert found.about.get("arrays") == (None if names == NAMES[0] else ", ".join(names))


def test_a_reference_batch_of_guided_diffusion_is_read_without_its_images(tmp_path: Path) -> None:
    """Its file holds 10,000 images of 256 x 256 pixels, 2 GB, next to mu and sigma of all real images."""
    mu, sigma = gaussian(np.random.default_rng(5), 6)
    images = np.zeros((2, LARGEST // 2 + 1), np.uint8)
    spatial = {"mu_s": np.zeros(3), "sigma_s": np.eye(3)}
    np.savez_compressed(tmp_path / "batch.npz", arr_0=images, mu=mu, sigma=sigma, **spatial)
    found = Statistics.load(tmp_path / "batch.npz")
    np.testing.assert_array_equal(found.mu, mu)
    assert (found.extractor, found.about) == ("inception", {})


def test_what_a_file_holds_instead_is_said(tmp_path: Path) -> None:
    np.savez(tmp_path / "samples.npz", arr_0=np.zeros((4, 8, 8, 3)), arr_1=np.zeros(4))
    with pytest.raises(GsdError, match="it holds arr_0, arr_1, no mean and covariance") as caught:
        Statistics.load(tmp_path / "samples.npz")
    assert caught.value.code == 3 and "mean and cov" in str(caught.value.hint)
