from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gsd_cli.core.editing.attributes import ATTRIBUTES, brightness, contrast, height, symmetry, width


def bar(rows: slice, columns: slice, channels: int = 1, value: float = 1.0) -> Tensor:
    """A bright bar on black, [1, C, 32, 32]."""
    picture = torch.full((1, channels, 32, 32), -1.0)
    picture[:, :, rows, columns] = value
    return picture


@pytest.mark.parametrize("channels", [1, 3])
def test_width_and_height_of_a_bar_are_its_own(channels: int) -> None:
    picture = bar(slice(4, 24), slice(10, 16), channels)
    assert width(picture).item() == pytest.approx(6 / 32, rel=1e-5)
    assert height(picture).item() == pytest.approx(20 / 32, rel=1e-5)
    # neither where it is nor how bright it is matters
    assert width(bar(slice(2, 9), slice(20, 26), value=0.1)).item() == pytest.approx(6 / 32, rel=1e-5)
    dark = -bar(slice(4, 24), slice(10, 16))
    assert width(dark).item() == pytest.approx(6 / 32, rel=1e-5)


def test_brightness_and_contrast_of_halves() -> None:
    picture = torch.ones(1, 1, 8, 8)
    picture[..., :4] = -1
    assert brightness(picture).item() == 0
    assert contrast(picture).item() == pytest.approx(1)
    assert brightness(0.5 * picture + 0.5).item() == pytest.approx(0.5)
    assert contrast(0.5 * picture).item() == pytest.approx(0.5)


def test_symmetry_is_fisher_s_z_of_the_cosine_with_the_mirror_image() -> None:
    assert symmetry(bar(slice(4, 24), slice(12, 20))).item() == pytest.approx(math.atanh(0.9995), abs=1e-2)
    assert symmetry(bar(slice(4, 24), slice(2, 10))).item() == pytest.approx(0, abs=1e-4)
    half = symmetry(bar(slice(4, 24), slice(12, 24))).item()  # 8 of 12 columns meet their mirror image
    assert half == pytest.approx(math.atanh(8 / 12), abs=2e-3)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_have_finite_gradients_even_for_an_empty_picture(name: str) -> None:
    for picture in (torch.zeros(2, 1, 16, 16), torch.rand(2, 3, 16, 16)):
        point = picture.requires_grad_(True)
        values = ATTRIBUTES[name](point)
        assert values.shape == (2,)
        values.sum().backward()
        assert point.grad is not None
        assert torch.isfinite(point.grad).all()
