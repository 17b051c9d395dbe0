"""Feature matching: the means and the second moments of generated images' features follow those of real ones.

Salimans et al. (NeurIPS 2016) match the means of a batch. The mean of a batch of 32 has a larger error than the gap
that matters: how often each kind of image appears, how bright and how full images are. Here the gap is a moving average
over thousands of images, and the generator follows its gradient. It acts as a discriminator in closed form, which
cannot win. Second moments show images between two kinds, of which one call makes too many: along the axes that separate
kinds, such images vary too little.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gsd_cli.compute.device import autocast
from gsd_cli.compute.distributed import World
from gsd_cli.compute.random import normal_rows
from gsd_cli.core.distillation.draws import Draws
from gsd_cli.core.distillation.norm_ratio import TINY, NormRatio
from gsd_cli.core.distillation.real_images import RealImages, require_comparable
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.options import DistillSettings

SIGMA = 1.0
"""Noise level at which images are compared: high enough to hide texture."""
DEEPEST = 3
"""Number of the encoder's maps that are used, the deepest ones."""
COMPONENTS = 16
"""Principal components of the real features that are matched."""
FEWEST, MOST = 256, 4096
"""Limits of the number of real images whose features are taken: an eighth of the images of the run. A small data set is
taken repeatedly, each time with other noise."""
EACH = 16
"""Real images per component, at least."""
MEMORY = 1600
"""Images over which the means are averaged. A longer memory lags behind the generator, which then oscillates."""
SPREAD_MEMORY = 4800
"""Images over which the second moments are averaged: K^2 numbers, whose errors add up."""


@dataclass(frozen=True)
class Axes:
    """Features [B, F] less `mean` [F], times `directions` [F, K], have mean 0 and variance 1 over real images."""

    mean: Tensor
    directions: Tensor

    def project(self, features: Tensor) -> Tensor:
        """[B, F] to [B, K]."""
        return (features - self.mean) @ self.directions


def principal_axes(features: Tensor, count: int) -> Axes:
    """The `count` directions in which features [N, F], on the CPU, vary most; fewer where they have no more."""
    wide = features.double()
    mean = wide.mean(0)
    variances, directions = torch.linalg.eigh(torch.cov(wide.T))
    variances, directions = variances.flip(0)[:count], directions.flip(1)[:, :count]
    varies = variances > 1e-9 * variances[0]
    return Axes(mean.float(), (directions[:, varies] / variances[varies].sqrt()).float())


class FeatureMatching:
    """The gap between generated and real images along the principal axes of the real ones, and its gradient.

    ratio: the norm of the term's gradient at the images over the distillation's, at a gap of one standard deviation; it
    falls with the gap. 0 turns the term off, and so does a class-conditional teacher, where the labels decide how often
    each kind appears. Nothing here waits for the device.
    """

    def __init__(
        self, settings: DistillSettings, teacher: Denoiser, data: RealImages | None, draws: Draws, total_images: int,
        world: World | None = None,
    ):  # fmt: skip
        self.settings, self.teacher, self.draws, self.world = settings, teacher, draws, world or World()
        self.ratio = settings.matching_ratio(real=data is not None) if not teacher.classes else 0.0
        self.balance = NormRatio(draws.device)
        if not self.on:
            return
        self.data = require_comparable(data, teacher, "feature matching", "--feature-matching off")
        self._real_count = min(MOST, max(FEWEST, total_images // 8))
        # computed at the first step, unless a checkpoint has them
        self._axes: Axes | None = None
        # the mean of generated images along the axes [K], where that of real ones is 0; and the number of images seen
        self._gap = torch.zeros((), device=draws.device)
        self._seen = torch.zeros((), device=draws.device)
        # the second moments of generated images along the axes less those of real ones [K, K], and the number seen
        self._spread = torch.zeros((), device=draws.device)
        self._spread_seen = torch.zeros((), device=draws.device)

    @property
    def on(self) -> bool:
        """Whether features are matched."""
        return self.ratio > 0

    @property
    def axes(self) -> Axes:
        """The principal axes of real images."""
        if self._axes is None:
            self._axes = self._axes_of_real()
            count = self._axes.directions.shape[1]
            self._gap = torch.zeros(count, device=self.draws.device)
            self._spread = torch.zeros(count, count, device=self.draws.device)
        return self._axes

    @property
    def gap(self) -> Tensor:
        """The Frechet distance along the axes, in standard deviations of real images, to second order:
        |m|^2 + |C - I|^2 / 4 for means m and second moments C."""
        return (self._gap.square().sum() + self._known_spread.square().sum() / 4).sqrt()

    @property
    def _known_spread(self) -> Tensor:
        return torch.where(self._spread_seen >= SPREAD_MEMORY, self._spread, 0.0)

    def measure(self, images: Tensor, step: int) -> Tensor:
        """The gradient of the gap at images [B, C, H, W], from the features of each image alone.

        The gap is the one before this step, so that an image's gradient depends on no other image of its batch. Then
        the gap takes the images into account.
        """
        if not self.on:
            return torch.zeros_like(images)
        axes, noise = self.axes, self.draws.normal("matching", step)
        size_of_gap = self.gap.clamp(min=TINY)
        direction, spreading = self._gap / size_of_gap, self._known_spread / (4 * size_of_gap)
        now, squares, gradients = torch.zeros_like(self._gap), torch.zeros_like(self._spread), []
        size = self.settings.micro_batch or len(images)
        for y, own in zip(images.split(size), noise.split(size), strict=True):
            y = y.clone().requires_grad_(True)
            along = axes.project(self._features(y, own))
            value = (along @ direction).sum() + (along @ spreading * along).sum()
            gradients.append(torch.autograd.grad(value / len(images), y)[0])
            seen = along.detach()
            now, squares = now + seen.sum(0) / len(images), squares + seen.T @ seen / len(images)
        count = self.world.size
        unit = torch.eye(len(now), device=now.device)
        self._update_gap(self.world.sum(now) / count, self.world.sum(squares) / count - unit)
        return torch.cat(gradients)

    def weigh(self, own_norm: Tensor, sidl_norm: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The term's weight [] at this step, from the norms of its gradient and the distillation's, and its figures.

        The weight is 0 until the gap is known.
        """
        if not self.on:
            return torch.zeros_like(own_norm), {}
        self.balance.update(sidl_norm, own_norm)
        gap = self.gap
        weight = torch.where(self._seen >= MEMORY, gap * self.balance.weight(self.ratio), 0.0)
        ratio = weight * own_norm / sidl_norm.clamp(min=TINY)
        return weight, {"feature_gap": gap, "matching_weight": weight, "matching_ratio": ratio}

    def _update_gap(self, now: Tensor, spread: Tensor) -> None:
        batch = self.settings.batch_size
        share = (batch / (self._seen + batch)).clamp(min=min(1.0, batch / MEMORY))
        slow = (batch / (self._spread_seen + batch)).clamp(min=min(1.0, batch / SPREAD_MEMORY))
        finite = now.isfinite().all() & spread.isfinite().all()  # a batch that is not finite is left out
        # in place: a recorded step knows these tensors by their addresses
        self._gap.copy_(torch.where(finite, self._gap + share * (now - self._gap), self._gap))
        self._spread.copy_(torch.where(finite, self._spread + slow * (spread - self._spread), self._spread))
        self._seen.add_(batch * finite)
        self._spread_seen.add_(batch * finite)

    def _features(self, x: Tensor, noise: Tensor) -> Tensor:
        """[B, F]: the mean of each channel of the encoder's deepest maps."""
        with autocast(x.device, self.settings.precision):
            maps = self.teacher.encode(x + SIGMA * noise, per_image(SIGMA, x), full=True)
        return torch.cat([m.float().mean((2, 3)) for m in maps[-DEEPEST:]], 1)

    @torch.no_grad()
    def _axes_of_real(self) -> Axes:
        places = torch.linspace(0, len(self.data) - 1, self._real_count, dtype=torch.float64).long()
        features = []
        for rows in torch.arange(len(places)).split(self.settings.micro_batch or self.settings.batch_size):
            noise = normal_rows(rows.tolist(), self.teacher.shape, self.settings.seed, "matching")
            images = self.data.batch(places[rows]).to(self.draws.device)
            features.append(self._features(images, noise.to(images.device)).cpu())
        axes = principal_axes(torch.cat(features), min(COMPONENTS, max(1, len(self.data) // EACH)))
        return Axes(axes.mean.to(self.draws.device), axes.directions.to(self.draws.device))

    def tensors(self) -> dict[str, Tensor]:
        """The axes, the gap and the running norms; nothing if the term is off or has not begun."""
        if not self.on or self._axes is None:
            return {}
        return {
            "matching_mean": self._axes.mean, "matching_directions": self._axes.directions,
            "matching_gap": self._gap, "matching_seen": self._seen,
            "matching_spread": self._spread, "matching_spread_seen": self._spread_seen,
            "matching_norms": self.balance.norms, "matching_turns": self.balance.turns,
        }  # fmt: skip

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave; with a checkpoint without it the term starts from nothing."""
        if not self.on or "matching_gap" not in tensors:
            return
        device = self.draws.device
        self._axes = Axes(tensors["matching_mean"].to(device), tensors["matching_directions"].to(device))
        self._gap, self._seen = tensors["matching_gap"].to(device), tensors["matching_seen"].to(device)
        count = len(self._gap)
        # checkpoints from before second moments were matched have none
        self._spread = tensors.get("matching_spread", torch.zeros(count, count)).to(device)
        self._spread_seen = tensors.get("matching_spread_seen", torch.zeros(())).to(device)
        self.balance.norms, self.balance.turns = (tensors[f"matching_{n}"].to(device) for n in ("norms", "turns"))
