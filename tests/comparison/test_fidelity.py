"""All measures of images see the same images: two independent distances and the grain, of a real small model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gsd_cli import BenchOptions, GsdError, bench
from gsd_cli.base.storage import ASSETS
from gsd_cli.catalogue.registry import FEATURES, bundled_features, further_features
from gsd_cli.catalogue.run_layout import features_name
from gsd_cli.compute.random import latents
from gsd_cli.core.models.classifier import save_features
from gsd_cli.core.models.feature_nets import ConvNeXtNet
from gsd_cli.core.models.generator import generate, load_model
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.metrics import generated
from gsd_cli.metrics.features import classifier_features
from gsd_cli.metrics.generated import Features
from gsd_cli.metrics.grain import Grain, GrainCounts
from gsd_cli.metrics.reference import real_grain, reference_of_features
from gsd_cli.metrics.statistics import Statistics, frechet_distance, gaussian_statistics
from scripts.features import bundle

N, FIGURES = 48, ["FD-fashion", "FD-fashion-2"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def measured(cache: Path, **changes: Any) -> dict[str, Any]:
    options = {"model": "fashion", "compare": "", "num_samples": N, "metrics": "fd,grain", "cache_dir": cache}
    return bench(BenchOptions(**options | changes)).metrics


@pytest.fixture(scope="module")
def found(cache: Path) -> dict[str, Any]:
    return measured(cache, compare="msa,ddim-2", metrics="fd,pr,grain")


def train(name: str) -> Statistics:
    return Statistics.load(ASSETS / f"features-{name}" / "train.npz")


def test_each_figure_is_what_its_features_say_of_the_seeds_images(found: dict[str, Any]) -> None:
    row = found["rows"][found["model"]]
    model = load_model("fashion")
    images = generate(model.generator, latents(range(N), model.generator.latent_shape), 64)
    for name, figure in zip(("fashion", "fashion-2"), FIGURES, strict=True):
        features = classifier_features(name, torch.device("cpu")).features(images)
        expected = frechet_distance(gaussian_statistics([features], name), train(name))
        # a pixel half-way between two grey values may be rounded either way in batches of another size
        assert row["distances"][figure]["fd"] == pytest.approx(expected, rel=1e-3)
    grain = Grain(N)
    grain.add(GrainCounts().features(images))
    assert grain.figures().items() <= row.items()
    assert row["fd"] == row["distances"]["FD-fashion"]["fd"] and list(row["distances"]) == FIGURES
    assert 0 < row["precision"] <= 1


def test_a_cheap_sampler_is_seen_by_all_and_a_stored_one_by_whom_it_was_stored_for(found: dict[str, Any]) -> None:
    cheap, stored = found["rows"]["ddim-2"], found["rows"]["msa"]
    assert list(cheap["distances"]) == FIGURES and "grain_dark" in cheap
    assert list(stored["distances"]) == ["FD-fashion"] and "grain_dark" not in stored
    shipped = Statistics.load(ASSETS / "ddpm-fashion" / "msa.npz").features
    assert shipped is not None
    first = gaussian_statistics([shipped[:N]], "fashion")
    assert stored["fd"] == pytest.approx(frechet_distance(first, train("fashion")))
    assert "FD-fashion-2 and grain: not stored" in found["protocol"]["msa"]
    assert "ddim-2" not in found["protocol"]
    assert stored["protocol"]["samples"] == f"{N} samples, shipped with the teacher"
    assert cheap["protocol"]["samples"] == f"{N} samples, made here, kept in the cache"


def test_what_is_said_of_the_figures(found: dict[str, Any]) -> None:
    assert found["real"] == {"grain_bright": 35.0, "grain_dark": 0.0, "source": "features-fashion/train.npz"}
    assert "features-fashion-2/train.npz (60000 images)" in found["protocol"]["FD-fashion-2"]
    assert f"seeds 0-{N - 1}" in found["protocol"]["grain"]
    assert found["figure"] == "FD-fashion"


def test_features_that_are_named_judge_alone(found: dict[str, Any], cache: Path) -> None:
    alone = measured(cache, features="fashion-2")
    assert alone["figure"] == "FD-fashion-2"
    row = alone["rows"][alone["model"]]
    assert list(row["distances"]) == ["FD-fashion-2"]
    assert row["fd"] == found["rows"][found["model"]]["distances"]["FD-fashion-2"]["fd"]


def test_statistics_of_one_extractor_are_refused_by_another(cache: Path) -> None:
    for features, stats in (("fashion-2", "features-fashion"), ("fashion", "features-fashion-2")):
        with pytest.raises(GsdError, match="not of fashion"):
            measured(cache, features=features, stats=str(ASSETS / stats / "train.npz"))
    with pytest.raises(GsdError, match="cannot be compared"):
        frechet_distance(train("fashion"), train("fashion-2"))
    same_size = Statistics(np.zeros(64), np.eye(64), 9, "fashion")
    with pytest.raises(GsdError, match="cannot be compared"):
        frechet_distance(same_size, train("fashion-2"))


def test_grain_alone_needs_no_features_and_makes_no_thousand_calls(cache: Path) -> None:
    found = measured(cache, compare="msa", metrics="grain", num_samples=3)
    assert found["rows"]["msa"].keys().isdisjoint({"grain_bright", "grain_dark", "fd"})
    assert "samples" not in found["rows"]["msa"]["protocol"]
    assert found["rows"][found["model"]]["grain_bright"] > 0
    assert found["rows"][found["model"]]["distances"] == {}


def test_the_domains_feature_sets_are_data() -> None:
    for (source, size, channels), names in FEATURES.items():
        record = {"source": f"{source} (train)", "size": size, "channels": channels}
        assert bundled_features(record) == names[0]
        assert further_features(names[0]) == names[1:]
        for name in names:
            assert features_name(ASSETS / f"features-{name}") == name
    assert bundled_features({"source": "my photos", "size": 32, "channels": 1}) is None
    assert further_features("toy") == further_features(None) == further_features("fashion-2") == ()


@pytest.mark.parametrize(
    ("folder", "name"),
    [("features-fashion", "fashion"), ("features-fashion-2", "fashion-2"), ("toy-features", "toy"),
     ("toy-features-2", "toy-2"), ("my-features-of-cats", "my-features-of-cats")],
)  # fmt: skip
def test_features_are_called_after_their_folder(folder: str, name: str) -> None:
    assert features_name(Path(folder)) == name


def test_features_that_would_not_fit_leave_their_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = torch.randn(20, 3)
    whole, cut = Features(20), Features(20)
    whole.add(vectors)
    monkeypatch.setattr(generated, "KEPT_BYTES", 100)
    for part in vectors.split(7):
        cut.add(part)
    kept, moments = whole.found("toy"), cut.found("toy")
    assert isinstance(kept, torch.Tensor) and torch.equal(kept, vectors)
    assert isinstance(moments, Statistics) and moments.n == cut.count == 20
    np.testing.assert_allclose(moments.sigma, np.cov(vectors.double().numpy(), rowvar=False))


def test_a_further_feature_set_is_bundled_without_features_of_single_images(
    toy_archive_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "toy-features-2").mkdir()
    torch.manual_seed(0)
    save_features(ConvNeXtNet(1, 3), tmp_path / "toy-features-2", {"name": "toy-2"})
    for name in ("toy", "held"):
        shutil.copy(toy_archive_path, tmp_path / f"{name}.zip")
    folder = bundle(tmp_path / "toy-features-2", tmp_path / "toy.zip", tmp_path / "held.zip", tmp_path)
    assert folder == tmp_path / "features-toy-2"
    extractor = classifier_features(str(folder), torch.device("cpu"))
    found = reference_of_features(folder, extractor)
    assert (found.statistics.extractor, found.statistics.n, found.features) == ("toy-2", 12, None)
    features = extractor.features(ImageArchive(tmp_path / "toy.zip").batch(torch.arange(12)))
    assert frechet_distance(gaussian_statistics([features], "toy-2"), found.statistics) == pytest.approx(0, abs=1e-6)
    assert real_grain(None, folder, 64)[0] == real_grain(str(tmp_path / "toy.zip"), None, 64)[0]
    (folder / "train.npz").unlink()
    adjacent = reference_of_features(tmp_path / "toy-features-2", extractor)  # DATA.toy-2.npz, as gsd prepare leaves it
    assert (adjacent.name, adjacent.features is not None) == ("toy.toy-2.npz", True)
