"""How close a latent is to Gaussian noise: its norm, the correlation of neighbours, its kurtosis."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BOUND = 4.0
"""Gaussian bounds, in standard deviations of the figure under N(0, I) of the same size."""


def correlations(z: Tensor) -> Tensor:
    """Lag-1 correlation of horizontal and of vertical neighbours of z [B, C, H, W]: [B, 2]; 0 for noise."""
    power = z.square().flatten(1).mean(1)
    across = (z[..., 1:] * z[..., :-1]).flatten(1).mean(1) / power
    down = (z[..., 1:, :] * z[..., :-1, :]).flatten(1).mean(1) / power
    return torch.stack([across, down], 1)


def kurtosis(z: Tensor) -> Tensor:
    """Mean fourth power over the squared mean square of z [B, ...], [B]: 3 for noise, more with outliers."""
    square = z.flatten(1).square()
    return square.square().mean(1) / square.mean(1).square()


def prior(z: Tensor) -> Tensor:
    """The distance of z [B, C, H, W] from white Gaussian noise, [B]; 0 when these statistics are those of noise.

    Squared lag-1 correlations, at full and at half size (StyleGAN2's noise regularisation, Karras et
    al. 2020, at its two finest sizes), and the squared logarithm of kurtosis / 3.
    """
    white = correlations(z).square().sum(1)
    if min(z.shape[2:]) >= 8:
        white = white + correlations(2 * torch.nn.functional.avg_pool2d(z, 2)).square().sum(1)
    return white + 0.25 * (kurtosis(z) / 3).log().square()


@dataclass(frozen=True)
class Gaussianity:
    """Figures of one latent: |z| / sqrt(d) (1 for noise), mean lag-1 correlation (0), kurtosis (3)."""

    norm: float
    correlation: float
    kurtosis: float
    size: int

    @property
    def strange(self) -> list[str]:
        """The names of the figures outside the Gaussian bounds for a latent of this size."""
        # standard deviations under N(0, I): of |z|, of two lag-1 correlations' mean, of the fourth moment
        bounds = {"norm": math.sqrt(0.5 / self.size), "correlation": math.sqrt(0.5 / self.size)}
        bounds["kurtosis"] = math.sqrt(24 / self.size)
        away = {"norm": self.norm - 1, "correlation": self.correlation, "kurtosis": self.kurtosis - 3}
        return [name for name, bound in bounds.items() if abs(away[name]) > BOUND * bound]


def gaussianity(z: Tensor) -> list[Gaussianity]:
    """The figures of each latent of z [B, C, H, W]."""
    d = z[0].numel()
    norms = (z.flatten(1).norm(dim=1) / math.sqrt(d)).tolist()
    means = correlations(z).mean(1).tolist()
    return [Gaussianity(n, c, k, d) for n, c, k in zip(norms, means, kurtosis(z).tolist(), strict=True)]
