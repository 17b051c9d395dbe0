"""The moving average: its decay in closed form, and what it averages."""

from __future__ import annotations

import pytest
from torch import nn

from gsd_cli.core.training.averaging import ema_decay, update_average


@pytest.mark.parametrize(
    ("batch", "seen", "half_life", "beta"),
    [
        (64, 50_000_000, 64, 0.5),
        (64, 50_000_000, 128, 0.5**0.5),
        (256, 10_000_000, 500_000, 0.5 ** (256 / 500_000)),
        (64, 64, 50_000, 0.5**20),  # ramped: h = 3.2 images
        (64, 6400, 50_000, 0.5**0.2),
        (64, 0, 50_000, 0.0),
    ],
)
def test_ema_decay(batch: int, seen: int, half_life: float, beta: float) -> None:
    assert ema_decay(batch, seen, half_life) == pytest.approx(beta, rel=1e-12)


@pytest.mark.parametrize(("ramp", "half_life"), [(0.05, 320), (0.2, 1280), (1.0, 5000)])
def test_the_ramp_is_a_share_of_the_images_seen(ramp: float, half_life: float) -> None:
    assert ema_decay(64, 6400, 5000, ramp) == pytest.approx(0.5 ** (64 / half_life), rel=1e-12)


def test_a_weight_halves_in_one_half_life() -> None:
    share = 1.0
    for step in range(10_000 // 50):
        share *= ema_decay(50, 10**9 + step, 10_000)
    assert share == pytest.approx(0.5)


def test_update_average_takes_parameters_and_buffers() -> None:
    average, model = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    nn.init.constant_(model.weight, 5.0)
    model.running_mean.fill_(10.0)
    model.num_batches_tracked.fill_(7)
    update_average(average, model, 0.25)
    assert average.weight.tolist() == [2.0] * 3  # 0.75 * 1 + 0.25 * 5
    assert average.running_mean.tolist() == [2.5] * 3
    assert model.weight.tolist() == [5.0] * 3
    update_average(average, model, 1.0)
    assert average.weight.tolist() == [5.0] * 3
