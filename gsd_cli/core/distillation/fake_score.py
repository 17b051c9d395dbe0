"""The fake score's estimate: its network's own, or the teacher's and a bounded correction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gsd_cli.core.distillation.noise_levels import SIGMA_DATA, Recipe
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.options import DistillSettings

Levels = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FakeScore:
    """How the estimate g of a clean image is made, at noise levels sigma [B].

    share(sigma): how much of the network's difference from the teacher counts, [B]; None where the network's own
    estimate is taken. weight(sigma): its loss weight per squared pixel, [B].
    """

    share: Levels | None
    weight: Levels

    def estimate(self, f: Tensor, g: Tensor, sigma: Tensor) -> Tensor:
        """g from the teacher's estimate f and the network's, both [B, C, H, W]."""
        if self.share is None:
            return g
        return f + self.share(sigma).reshape(-1, 1, 1, 1) * (g - f)


def build_fake_score(settings: DistillSettings, teacher: Denoiser, recipe: Recipe) -> FakeScore:
    """`--fake-score`: `plain`, the network alone with the recipe's weight, as published; or `bounded`.

        g = f + c(sigma) / a(sigma) (g_net - f),   weight 1 / c(sigma)^2,
        c(sigma) = sigma s / sqrt(sigma^2 + s^2),  s = 0.5

    a(sigma) is what the teacher's kind of prediction multiplies its network's output by (`Denoiser.amplification`).
    A network that predicts eps errs by sigma times its own error: at sigma 20 a hundredth is a fifth of the
    image's range, more than what separates fake from real. c is EDM's scale of the output (Karras et al. 2022, table
    1), which high noise does not amplify, and the weight makes the loss equal at all levels. The correction starts at
    zero and has the same optimum.
    """
    if settings.fake_score == "plain":
        return FakeScore(None, recipe.weight)
    return FakeScore(lambda sigma: _scale(sigma) / teacher.amplification(sigma), lambda sigma: _scale(sigma) ** -2)


def _scale(sigma: Tensor) -> Tensor:
    return sigma * SIGMA_DATA * torch.rsqrt(sigma**2 + SIGMA_DATA**2)
