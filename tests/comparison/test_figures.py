from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gsd_cli.comparison.figures import (
    circle_speeds,
    draw_angles,
    draw_pareto,
    draw_samples,
    draw_speeds,
    draw_walks,
    undominated,
)
from gsd_cli.data.pixels import save_grid
from gsd_cli.metrics.isometry import great_circles, path_angles

SHAPE = (1, 8, 8)


def flat(images: Tensor) -> Tensor:
    return images.flatten(1)


def test_a_circle_of_the_identity_is_a_circle() -> None:
    found = circle_speeds(lambda z: z, flat, SHAPE)
    assert found.angles[0, -1].item() == pytest.approx(2 * math.pi)
    torch.testing.assert_close(found.vectors[:, 0], found.vectors[:, -1], atol=1e-4, rtol=0)
    torch.testing.assert_close(found.lengths, found.lengths[:, :1].expand_as(found.lengths), rtol=1e-3, atol=0)


def test_paths_of_the_identity_are_as_long_as_their_angles() -> None:
    found = great_circles(lambda z: z, flat, SHAPE, path_angles(20, 0))
    radius = found.vectors[:, 0].norm(dim=1)
    torch.testing.assert_close(found.lengths.sum(1), found.angles[:, -1] * radius, rtol=2e-3, atol=1e-4)
    assert found.angles[:, -1].max() < math.pi / 2
    assert found.angles[:, -1].min() > 0.02


def test_pictures_are_drawn_side_by_side(tmp_path: Path) -> None:
    generators = {"without": lambda z: z * torch.linspace(0.1, 3, 8), "with": lambda z: z}
    speeds = draw_speeds({k: circle_speeds(g, flat, SHAPE) for k, g in generators.items()}, tmp_path / "speeds.png")
    paths = {k: great_circles(g, flat, SHAPE, path_angles(12, 0)) for k, g in generators.items()}
    angles = draw_angles(paths, tmp_path / "angles.png")
    for path in (speeds, angles):
        pixels = np.asarray(Image.open(path).convert("L"))
        assert pixels.shape[1] > 700
        assert (pixels[:, :400] < 128).any()
        assert (pixels[:, 400:] < 128).any()


def test_every_row_of_samples_has_its_name(tmp_path: Path) -> None:
    grey = {"a": torch.full((5, 1, 8, 8), -1.0), "a longer name": torch.full((5, 1, 8, 8), 0.5)}
    grey["third"] = torch.linspace(-1, 1, 5).reshape(5, 1, 1, 1).expand(5, 1, 8, 8)
    drawing = np.asarray(Image.open(draw_samples(grey, tmp_path / "figure1.png", scale=4)).convert("L"))
    width, height = 5 * 32, 32
    assert drawing.shape[0] == 3 * height
    margin, images = drawing[:, :-width], drawing[:, -width:]
    np.testing.assert_array_equal(images, np.asarray(Image.open(save_grid(
        torch.cat(list(grey.values())), tmp_path / "grid.png", 5, 4
    )).convert("L")))  # fmt: skip
    # each row of the margin has dark text on white, as wide as its name, and none of it is cut
    inked = [margin[row * height : (row + 1) * height] < 128 for row in range(3)]
    widths = [np.flatnonzero(ink.any(0)).size for ink in inked]
    assert widths[1] > widths[2] > widths[0] > 0
    for ink in inked:
        assert not (ink[0].any() or ink[-1].any() or ink[:, 0].any() or ink[:, -1].any())


def test_walks_are_rows_in_turn(tmp_path: Path) -> None:
    black, white = torch.full((5, 1, 8, 8), -1.0), torch.full((5, 1, 8, 8), 1.0)
    path = draw_walks({"without": [black, black], "with": [white, white]}, tmp_path / "walks.png")
    drawing = np.asarray(Image.open(path).convert("L"))
    assert drawing.shape[0] == 4 * 16
    names, frames = drawing[:, : -5 * 16], drawing[:, -5 * 16 :]
    assert [frames[8 + 16 * row].mean() for row in range(4)] == [0, 255, 0, 255]
    widths = [np.flatnonzero((names[16 * row : 16 * row + 16] < 128).any(0)).size for row in range(4)]
    assert widths[0] == widths[2] > widths[1] == widths[3] > 0


def test_points_that_no_other_beats() -> None:
    assert undominated([(10, 1), (0.1, 9), (10, 9.5), (5, 9)]) == [(0.1, 9), (10, 1)]
    assert undominated([(1, 2), (1, 2)]) == [(1, 2), (1, 2)]


@pytest.mark.parametrize("worst", [3.0, 80.0])
def test_quality_against_time_of_distances_near_and_far(tmp_path: Path, worst: float) -> None:
    points = {"slow and good": (30.0, 2.0), "fast and bad": (0.02, worst)}
    with Image.open(draw_pareto(points, "FD", tmp_path / "pareto.png")) as drawn:
        assert drawn.size == (660, 440)
