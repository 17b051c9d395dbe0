from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gsd_cli.base.errors import GsdError
from gsd_cli.metrics.image_quality import Real, frechet_figures, kernel_figures, precision_recall_figures
from gsd_cli.metrics.reference import KEPT, _some_kept
from gsd_cli.metrics.statistics import Statistics, gaussian_statistics


@pytest.fixture(scope="module")
def features() -> torch.Tensor:
    return torch.randn(2000, 6, generator=torch.Generator().manual_seed(3))


def real(features: torch.Tensor) -> Real:
    return Real(gaussian_statistics([features], "toy"), "toy.npz", features, "toy.npz")


def test_a_set_against_itself(features: torch.Tensor) -> None:
    found = frechet_figures(features, real(features))
    assert found["fd"] == pytest.approx(0, abs=1e-9)
    assert found["n"] == 2000
    found = precision_recall_figures(features, features)
    assert found["precision"] == found["recall"] == 1.0
    assert kernel_figures(features, features)["kid"] == pytest.approx(0, abs=0.01)


def test_a_shift_is_the_frechet_distance_with_a_spread_that_holds_it(features: torch.Tensor) -> None:
    truth = Statistics(np.zeros(6), np.eye(6), 10**9, "toy")
    found = frechet_figures(features + torch.tensor([2.0, 0, 0, 0, 0, 0]), Real(truth, "closed form"))
    assert abs(found["fd_infinity"] - 4.0) < 4 * (found["fd_error"] + found["fd_infinity_error"])
    assert 0 < found["fd_error"] < 0.5


def test_few_images_have_no_spread(features: torch.Tensor) -> None:
    assert frechet_figures(features[:100], real(features)).keys() == {"fd", "n"}


def test_statistics_alone_give_the_distance_alone(features: torch.Tensor) -> None:
    made = gaussian_statistics([features + 1], "toy")
    assert frechet_figures(made, real(features)) == {"fd": pytest.approx(6.0), "n": 2000}


def test_statistics_carry_features_through_a_file(features: torch.Tensor, tmp_path: Path) -> None:
    path = replace(gaussian_statistics([features], "toy"), features=features[:50]).save(tmp_path / "x.npz")
    read = Statistics.load(path)
    assert read.features is not None
    assert torch.allclose(read.features, features[:50], atol=2e-3)
    with np.load(path) as data:
        content = dict(data)
    np.savez(tmp_path / "bad.npz", **{**content, "features": np.zeros((3, 4), np.float16)})
    with pytest.raises(GsdError, match="do not belong"):
        Statistics.load(tmp_path / "bad.npz")


@pytest.mark.parametrize("total", [7, KEPT, KEPT + 1, 12 * KEPT])
def test_kept_features_are_a_fixed_random_choice(total: int) -> None:
    """Of every class alike, whether the images are sorted by class or the classes take turns."""

    def choose() -> torch.Tensor:
        kept: list[torch.Tensor] = []
        passed = torch.cat(list(_some_kept(iter(torch.arange(total)[:, None].split(64)), total, kept)))
        assert len(passed) == total
        return torch.cat(kept).flatten()

    chosen = choose()
    assert len(chosen.unique()) == len(chosen) == min(total, KEPT)
    assert torch.equal(chosen, chosen.sort().values) and torch.equal(chosen, choose())
    if total > 2 * KEPT:
        for classes in (chosen % 12, chosen // KEPT):
            assert classes.bincount(minlength=12).min() > 0.8 * KEPT / 12


def test_small_sets_have_no_spread_over_subsets(features: torch.Tensor) -> None:
    assert {"kid_std", "kid_error"} <= kernel_figures(features, features.flip(0)).keys()
    assert "kid_std" not in kernel_figures(features[:1000], features[1000:])
    assert kernel_figures(features[:100], features[1000:]).keys() == {"kid", "kid_subset_size"}


@pytest.mark.parametrize("larger", ["real", "made"])
def test_a_perfect_generator_of_data_sorted_by_class(larger: str) -> None:
    """Features of ten classes, sorted, cut to a quarter: the figures are those of a random quarter, not of the
    first classes (precision 0.2)."""
    random = torch.Generator().manual_seed(5)
    centres = 20 * torch.randn(10, 8, generator=random)
    classes = torch.arange(10).repeat_interleave(200)
    many = centres[classes] + torch.randn(2000, 8, generator=random)
    few = centres[torch.randint(10, (500,), generator=random)] + torch.randn(500, 8, generator=random)
    shuffled = many[torch.randperm(2000, generator=random)]
    if larger == "real":
        found, right = precision_recall_figures(few, many), precision_recall_figures(few, shuffled[:500])
    else:
        found, right = precision_recall_figures(many, few), precision_recall_figures(shuffled[:500], few)
    assert right["precision"] > 0.6 and right["coverage"] > 0.8
    for name in ("precision", "recall", "coverage"):
        assert found[name] == pytest.approx(right[name], abs=0.1), name
    assert found == precision_recall_figures(*((few, many) if larger == "real" else (many, few)))
