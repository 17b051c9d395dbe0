"""The losses, as pure functions of tensors; each returns per-image (or per-pair) values.

Notation: y = G(z) the generator's images; x = y + sigma n; f = D_teacher(x, sigma);
g = D_fake(x, sigma). Images are [B, C, H, W].
"""

from __future__ import annotations

from torch import Tensor

TINY = 1e-12


def score_identity_loss(y: Tensor, f: Tensor, g: Tensor, alpha: float = 1.0) -> Tensor:
    """Score identity Distillation (Zhou et al., ICML 2024): [B].

        sum over pixels of (f - g) ((f - y) - alpha (f - g)) / w,   w = stop_gradient(mean |y - f|)

    f and g must carry their graph back to y: detaching them gives another method's gradient.
    """
    w = (y - f).detach().abs().flatten(1).mean(1).clamp(min=1e-5)
    product = (f - g) * ((f - y) - alpha * (f - g))
    return product.flatten(1).sum(1) / w


def fake_score_loss(y: Tensor, g: Tensor, weight: Tensor) -> Tensor:
    """Denoising score matching of the fake score on the generator's images: [B].

    sum over pixels of weight (g - y)^2; weight: [B]. With weight = 1 / sigma^2 it is the eps error
    a DDPM is trained with (Ho et al. 2020).
    """
    return weight * (g - y).square().flatten(1).sum(1)


def speed_loss(distance: Tensor, theta: Tensor) -> Tensor:
    """Isometric regularisation, form `speed`: [P], one value a pair.

        (log distance - log theta - mean over pairs)^2

    distance: feature distance of a pair's images, > 0; theta: the angle between its latents,
    radians. Scale-free: zero exactly when the images move at one speed everywhere. To first order
    the scaled-isometry objective of Hahm et al. (ICML 2024), without derivatives.
    """
    log_speed = (distance.clamp(min=TINY) / theta).log()
    return (log_speed - log_speed.mean()).square()


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance of feature vectors [P, F]: [P]; its gradient is finite at a = b."""
    # eps inside the root: sqrt has an infinite slope at 0
    return ((a - b).square().sum(1) + TINY).sqrt()
