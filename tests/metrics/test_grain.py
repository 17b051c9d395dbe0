"""Grain: closed forms, other people's Laplacian, medians that no batching changes."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image

from gsd_cli.base.storage import ASSETS
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.data.decode import crop_and_resize
from gsd_cli.data.pixels import from_uint8
from gsd_cli.metrics.grain import LEVEL, Grain, GrainCounts, grain_facts, grain_of, median, roughness
from gsd_cli.metrics.reference import real_grain
from gsd_cli.metrics.statistics import gaussian_statistics
from tests.support.shell import IMAGES


def figures(pixels: np.ndarray, batch: int = 64) -> dict[str, float]:
    """Of uint8 images [N, C, H, W]."""
    grain = Grain(len(pixels))
    for part in torch.from_numpy(pixels).split(batch):
        grain.add(GrainCounts().features(from_uint8(part)))
    return grain.figures()


def noise(n: int = 12, channels: int = 1, size: int = 9) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, channels, size, size), dtype=np.uint8)


def checkerboard(low: int, high: int) -> np.ndarray:
    board = np.where(np.indices((8, 8)).sum(0) % 2, high, low)
    return board.astype(np.uint8)[None, None]


def test_flat_images_and_even_slopes_have_none() -> None:
    flat = np.concatenate([np.full((1, 3, 8, 8), 200, np.uint8), np.full((1, 3, 8, 8), 7, np.uint8)])
    assert figures(flat) == {"grain_bright": 0.0, "grain_dark": 0.0}
    slope = (3 * np.arange(8)[:, None] + 5 * np.arange(8)).astype(np.uint8)[None, None]
    assert figures(slope) == {"grain_dark": 0.0}


@pytest.mark.parametrize(("low", "high"), [(0, 255), (20, 100), (LEVEL - 1, LEVEL)])
def test_a_checkerboard_has_four_times_its_step(low: int, high: int) -> None:
    assert figures(checkerboard(low, high)) == {"grain_bright": 4.0 * (high - low), "grain_dark": 4.0 * (high - low)}


def test_the_level_itself_is_bright() -> None:
    assert figures(np.full((1, 1, 4, 4), LEVEL, np.uint8)).keys() == {"grain_bright"}
    assert figures(np.full((1, 1, 4, 4), LEVEL - 1, np.uint8)).keys() == {"grain_dark"}


def test_roughness_is_scipys_laplacian_away_from_the_border() -> None:
    pixels = noise(channels=3)
    theirs = np.stack([[np.abs(scipy.ndimage.laplace(one.astype(np.int64))) for one in image] for image in pixels])
    np.testing.assert_array_equal(roughness(torch.from_numpy(pixels)).numpy(), theirs[..., 1:-1, 1:-1])


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_the_medians_are_numpys_over_all_channels_whatever_the_batch(batch: int) -> None:
    pixels = noise(channels=3)
    rough, inside = roughness(torch.from_numpy(pixels)).numpy(), pixels[..., 1:-1, 1:-1]
    expected = {"grain_bright": np.median(rough[inside >= LEVEL]), "grain_dark": np.median(rough[inside < LEVEL])}
    assert figures(pixels, batch) == expected


@pytest.mark.parametrize("values", [[3], [3, 8], [0, 0, 5], [1, 2, 2, 9], [1020, 0, 7, 7, 7, 1]])
def test_a_median_from_counts_is_numpys(values: list[int]) -> None:
    assert median(np.bincount(values, minlength=1021)) == np.median(values)


def test_images_are_taken_as_they_would_be_saved() -> None:
    image = from_uint8(torch.from_numpy(checkerboard(0, 255)))
    counts = GrainCounts().features(image)
    assert torch.equal(GrainCounts().features(3 * image), counts)  # beyond white and black there is nothing
    assert torch.equal(GrainCounts().features(image + 0.3 / 127.5 * torch.sign(image)), counts)


def test_the_standard_error_is_that_of_ten_blocks_in_order() -> None:
    pixels = noise(200) // np.linspace(1, 4, 200, dtype=np.uint8)[:, None, None, None]
    found = figures(pixels)
    blocks = [figures(block)["grain_bright"] for block in np.array_split(pixels, 10)]
    assert found["grain_bright_error"] == pytest.approx(np.std(blocks, ddof=1) / 10**0.5)
    assert found["grain_bright_error"] > 1
    assert figures(pixels[:199]).keys() == {"grain_bright", "grain_dark"}


def test_images_without_an_inside_have_no_grain() -> None:
    assert figures(np.zeros((3, 1, 2, 2), np.uint8)) == {}


def test_facts_round_trip_and_others_are_ignored() -> None:
    found = {"grain_bright": 34.5, "grain_dark": 0.0}
    assert grain_of(grain_facts(found | {"grain_bright_error": 1.0}) | {"source": "x"}) == found
    assert grain_of({"grain_bright": "much", "grain_dark": "-1"}) == {}


def test_bundled_statistics_know_the_grain_of_real_garments() -> None:
    for name in ("features-fashion", "features-fashion-2"):
        found, whose = real_grain(None, ASSETS / name, 64)
        assert found == {"grain_bright": 35.0, "grain_dark": 0.0}
        assert whose == f"{name}/train.npz"
    with zipfile.ZipFile(IMAGES) as archive:
        pictures = [crop_and_resize(Image.open(io.BytesIO(archive.read(name))), 32, 1) for name in archive.namelist()]
    some = figures(np.stack(pictures).transpose(0, 3, 1, 2))
    assert abs(some["grain_bright"] - 35) < 8  # 100 images of 60,000
    assert some["grain_dark"] == 0.0


def test_what_is_real_is_a_data_set_a_file_or_nothing(toy_archive_path: Path, toy_images: np.ndarray) -> None:
    of_data = figures(toy_images.transpose(0, 3, 1, 2))
    assert real_grain(str(toy_archive_path), None, 5) == (of_data, "toy.zip")
    assert len(ImageArchive(toy_archive_path)) == len(toy_images)
    statistics = gaussian_statistics([torch.randn(9, 3)], "toy")
    path = statistics.save(toy_archive_path.with_name("plain.npz"))
    assert real_grain(str(path), None, 5) == ({}, "plain.npz")
    replace(statistics, about=grain_facts(of_data)).save(path)
    assert real_grain(str(path), None, 5) == (of_data, "plain.npz")
    assert real_grain("cifar10-train", None, 5) == real_grain(None, None, 5) == ({}, "")
