"""The losses of score identity distillation and of the discriminator, as pure functions; one value per image.

Notation: y = G(z) the generator's images; x = y + sigma n; f = D_teacher(x, sigma), s_theta of the paper's eq. 2;
g = D_fake(x, sigma), its s_phi. Images are [B, C, H, W]. Eq. 1, the isometric loss, is in `isometric_forms`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def score_identity_loss(y: Tensor, f: Tensor, g: Tensor, alpha: float = 1.0) -> Tensor:
    """Score identity Distillation (Zhou et al., ICML 2024), the tractable form of the paper's eq. 2: [B].

        sum over pixels of (f - g) ((f - y) - alpha (f - g)) / w,   w = stop_gradient(mean |y - f|)

    f and g must carry their graph back to y: with f and g detached the gradient is that of distribution matching
    distillation, another method.
    """
    product = (f - g) * ((f - y) - alpha * (f - g))
    return product.flatten(1).sum(1) / residual(y, f)


def residual(y: Tensor, f: Tensor) -> Tensor:
    """w = stop_gradient(mean |y - f|) over pixels, at least 1e-5: [B]."""
    return (y - f).detach().abs().flatten(1).mean(1).clamp(min=1e-5)


def fake_score_loss(y: Tensor, g: Tensor, weight: Tensor) -> Tensor:
    """Denoising score matching of the fake score on the generator's images: [B].

        sum over pixels of weight (g - y)^2

    weight: [B]. With weight = 1 / sigma^2 it is the eps error that a DDPM is trained with (Ho et al. 2020).
    """
    return weight * (g - y).square().flatten(1).sum(1)


# -- the adversarial term --------------------------------------------------------------------------
# A discriminator gives one map of logits [B, h, w] per feature map, positive for a real image.


def discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """The discriminator's binary cross-entropy, the mean over its maps: [B].

        softplus(-real) + softplus(fake)

    real, fake: maps of logits [B, h, w], of real and of generated images. 2 log 2 when it cannot tell them apart.
    """
    return _mean_over_maps([F.softplus(-r) + F.softplus(f) for r, f in zip(real, fake, strict=True)])


def adversarial_loss(fake: Sequence[Tensor]) -> Tensor:
    """The generator's non-saturating loss (Goodfellow et al., 2014), the mean over maps: [B].

        softplus(-fake)

    fake: maps of logits [B, h, w] of generated images, with their graph.
    """
    return _mean_over_maps([F.softplus(-f) for f in fake])


def smoothness_loss(logits: Sequence[Tensor], step: float) -> Tensor:
    """How steep a discriminator is, the mean over its maps: [B].

        (logit(x + step n) - logit(x))^2 / step^2,   n ~ N(0, I)

    logits: maps [2 B, h, w], of images x and then of the same images moved. To first order the squared norm of each
    logit's gradient: the penalties R1 and R2 (Mescheder et al., ICML 2018) without a second derivative, as in Lin et
    al. (2025, "Diffusion adversarial post-training").
    """
    moved = [(m[len(m) // 2 :] - m[: len(m) // 2]).square() for m in logits]
    return _mean_over_maps(moved) / step**2


def accuracy(logits: Sequence[Tensor], *, real: bool) -> Tensor:
    """The share of logits with the right sign, in [0, 1], the mean over maps: [B]."""
    return _mean_over_maps([((f > 0) if real else (f < 0)).float() for f in logits])


def _mean_over_maps(maps: Sequence[Tensor]) -> Tensor:
    return torch.stack([m.flatten(1).mean(1) for m in maps]).mean(0)
