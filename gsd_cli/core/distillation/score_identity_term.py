"""Score identity distillation as a term of the generator's loss (eq. 2 of the paper; Zhou et al., ICML 2024)."""

from __future__ import annotations

import torch
from torch import Tensor

from gsd_cli.compute.device import autocast
from gsd_cli.compute.distributed import World
from gsd_cli.core.distillation.draws import Draws
from gsd_cli.core.distillation.fake_score import FakeScore
from gsd_cli.core.distillation.guidance import Guidance
from gsd_cli.core.distillation.losses import score_identity_loss
from gsd_cli.core.distillation.micro_batches import column, micro_batches
from gsd_cli.core.distillation.noise_levels import NoiseRecipe
from gsd_cli.core.distillation.norm_ratio import TermGradient
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import without_dropout
from gsd_cli.options import DistillSettings


class ScoreIdentityTerm:
    """The loss between the frozen teacher f and the fake score g, and its gradient at the generator's images.

    The gradient runs through both networks into the images; their weights do not change here.
    """

    def __init__(
        self, settings: DistillSettings, teacher: Denoiser, fake_score: FakeScore, guidance: Guidance, draws: Draws,
        recipe: NoiseRecipe, world: World,
    ):  # fmt: skip
        self.settings, self.teacher, self.fake_score, self.guidance = settings, teacher, fake_score, guidance
        self.draws, self.recipe, self.world = draws, recipe, world

    def measure(self, images: Tensor, condition: Condition, step: int) -> TermGradient:
        """The loss, and `sidl_weight` times its gradient at images y [B, C, H, W] of a condition."""
        if self.settings.sidl_weight == 0:
            return TermGradient(images.new_zeros(()), torch.zeros_like(images))
        sigma = self.draws.sigma(self.recipe.generator_sigma, "generator", step)
        noise, total, gradients = self.draws.normal("judge", step), images.new_zeros(()), []
        with self.fake_score.frozen():
            for part, _ in micro_batches(self.settings.micro_batch, len(images)):
                y = images[part].clone().requires_grad_(True)
                x = y + column(sigma[part]) * noise[part]
                # with dropout the fake score would be another network in each call, also in a call that recomputes
                with without_dropout(self.fake_score.network, self.settings.dropout):
                    f, g = self._estimates(x, sigma[part], condition.rows(part))
                    losses = score_identity_loss(y, f, g, self.settings.alpha)
                    weighted = self.settings.sidl_weight * losses.sum() / len(images)
                    gradients.append(torch.autograd.grad(weighted, y)[0])
                total = total + losses.detach().sum() / len(images)
        return TermGradient(self.world.sum(total) / self.world.size, torch.cat(gradients))

    def _estimates(self, x: Tensor, sigma: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """f(x, sigma) and g(x, sigma), each with its guidance, with their graphs to x."""
        guidance, rows = self.guidance, (x, sigma, condition)
        with autocast(x.device, self.settings.precision):
            f, base = guidance.estimates(self.teacher, *rows, scales=(guidance.teacher, guidance.fake))
            (g,) = guidance.estimates(self.fake_score.network, *rows, scales=(guidance.fake,))
        return f, self.fake_score.preconditioning.estimate(base, g, sigma)
