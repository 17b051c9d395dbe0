"""The losses, as pure functions of tensors; each returns per-image (or per-pair) values.

Notation: y = G(z) the generator's images; x = y + sigma n; f = D_teacher(x, sigma);
g = D_fake(x, sigma). Images are [B, C, H, W].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

TINY = 1e-12


def score_identity_loss(y: Tensor, f: Tensor, g: Tensor, alpha: float = 1.0) -> Tensor:
    """Score identity Distillation (Zhou et al., ICML 2024): [B].

        sum over pixels of (f - g) ((f - y) - alpha (f - g)) / w,   w = stop_gradient(mean |y - f|)

    f and g must carry their graph back to y: detaching them gives another method's gradient.
    """
    product = (f - g) * ((f - y) - alpha * (f - g))
    return product.flatten(1).sum(1) / residual(y, f)


def residual(y: Tensor, f: Tensor) -> Tensor:
    """w = stop_gradient(mean |y - f|) over pixels, at least 1e-5: [B]."""
    return (y - f).detach().abs().flatten(1).mean(1).clamp(min=1e-5)


def fake_score_loss(y: Tensor, g: Tensor, weight: Tensor) -> Tensor:
    """Denoising score matching of the fake score on the generator's images: [B].

    sum over pixels of weight (g - y)^2; weight: [B]. With weight = 1 / sigma^2 it is the eps error
    a DDPM is trained with (Ho et al. 2020).
    """
    return weight * (g - y).square().flatten(1).sum(1)


# -- the adversarial term --------------------------------------------------------------------------
# A discriminator gives one map of logits [B, h, w] per feature map, positive for a real image.


def discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """The discriminator's binary cross-entropy, the mean over its maps: [B].

        softplus(-real) + softplus(fake)

    real, fake: maps of logits [B, h, w], of real and of generated images. 2 log 2 when it is undecided.
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

    logits: maps [2 B, h, w], of images x and then of the same ones moved. To first order the squared norm of each
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


# -- the isometric term: its forms ---------------------------------------------------------------
# One value a pair, their mean is the loss. Distances are between features; theta is the angle
# between a pair's latents, radians.


def speed_loss(distance: Tensor, theta: Tensor) -> Tensor:
    """Form `speed`: [P].

        (log distance - log theta - mean over pairs)^2

    distance: > 0, [P]. Scale-free: zero exactly when the images move at one speed everywhere. To
    first order the scaled-isometry objective of Hahm et al. (ICML 2024), without derivatives.
    """
    log_speed = (distance.clamp(min=TINY) / theta).log()
    return (log_speed - log_speed.mean()).square()


def stress_loss(distance: Tensor, theta: Tensor) -> Tensor:
    """Form `stress`: [P]; its mean is multidimensional scaling's normalised stress.

        P (a theta - distance)^2 / sum distance^2,   a = stop_gradient(sum distance theta / sum theta^2)

    a is the one scale that fits best; long pairs weigh more than short ones, unlike in `speed`.
    """
    a = ((distance * theta).sum() / theta.square().sum()).detach()
    return len(theta) * (a * theta - distance).square() / distance.square().sum().clamp(min=TINY)


def straight_loss(chord: Tensor, arc: Tensor) -> Tensor:
    """Form `straight`: [P].

        P (arc - chord)^2 / sum arc^2

    arc: the way over the middle of the path, >= chord. Eq. 1 of the paper, free of scale: it asks for paths that
    do not turn back, whatever the speed on them.
    """
    return len(arc) * (arc - chord).square() / arc.square().sum().clamp(min=TINY)


def literal_loss(chord: Tensor, arc: Tensor) -> Tensor:
    """Form `literal`, the paper's eq. 1 as printed: [P].

        (chord - arc)^2

    chord: the feature distance of a path's ends; arc: the sum over its segments (four or more).
    No latent distance occurs: zero when images lie on straight lines. Not scale-free.
    """
    return (chord - arc).square()


def jacobian_loss(jv: Tensor, jw: Tensor) -> Tensor:
    """Form `jacobian` (Hahm et al., ICML 2024), from two directional derivatives a point: [P].

        (Jv . Jw)^2 / (mean |Jv|^2)^2

    jv, jw: [P, F], J applied to independent random v, w of one length. Scale-free; with H = J^T J
    the mean over v and w is Tr(H^2) / Tr(H)^2, one over the effective rank, smallest when H ~ I.
    """
    mean_square = (jv.square().sum(1).mean() + jw.square().sum(1).mean()) / 2
    return (jv * jw).sum(1).square() / mean_square.square().clamp(min=TINY)


def log_memberships(features: Tensor, centres: Tensor, temperature: Tensor) -> Tensor:
    """log q: how far each image belongs to each of K centres, [..., K], from features [..., F].

        q_k = softmax over k of -|phi - c_k|^2 / 2T

    centres c: [K, F]; temperature T > 0. The posterior of a mixture of K equal Gaussians of variance T (McLachlan and
    Peel, Finite Mixture Models, 2000).
    """
    # |phi|^2 is the same for all k and cancels
    scores = features @ centres.mT - centres.square().sum(1) / 2
    return (scores / temperature).log_softmax(-1)


def borders_loss(q: Tensor, near: Tensor, theta: Tensor) -> Tensor:
    """Form `borders`: [P].

        sum over k of |q_k(G(z')) - q_k(G(z))| / theta

    q, near: memberships of a pair's images, [P, K], sums of 1. The total variation of q on the way between the latents:
    2 for a way that crosses one border, however wide, so its mean is in proportion to the area of the borders in the
    latent space (the co-area formula: Fleming and Rishel, 1960).
    """
    return (near - q).abs().sum(1) / theta


def cells_loss(log_q: Tensor, targets: Tensor) -> Tensor:
    """Form `cells`: [P].

        - sum over k of t_k(z) log q_k(G(z))

    log_q: [P, K]; targets t: [P, K], sums of 1. The cross-entropy: least, and then the targets' entropy, where q = t.
    """
    return -(targets * log_q).sum(1)


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance of feature vectors [..., F]: [...]; its gradient is finite at a = b."""
    # eps inside the root: sqrt has an infinite slope at 0
    return ((a - b).square().sum(-1) + TINY).sqrt()
