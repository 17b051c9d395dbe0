"""The forms of the isometric term (eq. 1 of the paper): the latents a form looks at, and its loss on their images.

Notation: z and z' a pair of neighbouring latents; theta their angle, radians: the geodesic distance on the latent
sphere; phi the feature map; distances of images are Euclidean distances of features. To add a form, add its functions
and its line in FORMS here, and its name to the options (`--irl`, and FITTED_FORMS for one that is fitted).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gsd_cli.core.distillation.cells import Cells
from gsd_cli.core.distillation.clusters import Clusters
from gsd_cli.core.models.sphere import rotate, tangent

TINY = 1e-12
SEGMENTS = 4
"""Segments of the path whose length `literal` compares with its chord."""
STEP = 0.05
"""Half the width, in radians, of the central differences of `jacobian`."""


@dataclass(frozen=True)
class Form:
    """What one form of the isometric term needs, and its loss.

    points: the S latents [P, ...] it looks at, as points(z, directions, tau) for directions [2, P, ...] ~ N(0, I) and
        angles tau [P]: z alone, neighbours of z, segments of the path to one.
    shared: how many of these, from the first, are N(0, I): they take places in the batch and serve the other losses
        too. The others are made for this term only.
    compare: compare(features [S, P, F], theta [P]) -> loss [P], speed [P] (distance per radian; nan without a pair).
    fitted_to: what the form is fitted to once, before its first step: clusters of images, or cells of latents too.
        `compare` then gets the images' log-memberships [S, P, K], and for cells z's target memberships [P, K].
    hold_weight: the automatic weight is found in the form's first steps and held from then on.
    """

    points: Callable[[Tensor, Tensor, Tensor], list[Tensor]]
    shared: int
    compare: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    fitted_to: type[Clusters] | None = None
    hold_weight: bool = False

    @property
    def group(self) -> int:
        """Rows of the batch per pair. A form that shares none (`jacobian`) gets as many pairs as if it took two."""
        return self.shared or 2

    @property
    def point_count(self) -> int:
        """S: how many latents the form looks at for each z."""
        return len(self.points(torch.ones(1, 1), torch.ones(2, 1, 1), torch.ones(1)))


# -- which latents: each function returns S latents [P, ...] ----------------------------------------


def _point(z: Tensor, directions: Tensor, tau: Tensor) -> list[Tensor]:
    return [z]


def _pair(z: Tensor, directions: Tensor, tau: Tensor) -> list[Tensor]:
    return [z, rotate(z, directions[0], tau)]


def _path(z: Tensor, directions: Tensor, tau: Tensor) -> list[Tensor]:
    inner = [rotate(z, directions[0], tau * k / SEGMENTS) for k in range(1, SEGMENTS)]
    return [*_pair(z, directions, tau), *inner]


def _pair_and_middle(z: Tensor, directions: Tensor, tau: Tensor) -> list[Tensor]:
    return [*_pair(z, directions, tau), rotate(z, directions[0], tau / 2)]


def _cross(z: Tensor, directions: Tensor, tau: Tensor) -> list[Tensor]:
    step = torch.full_like(tau, STEP)
    return [rotate(z, tangent(w, z), sign * step) for w in directions for sign in (1, -1)]


# -- the losses: one value per pair, their mean is the loss -----------------------------------------


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean distance of feature vectors [..., F]: [...]; its gradient is finite at a = b."""
    # eps inside the root: sqrt has an infinite slope at 0
    return ((a - b).square().sum(-1) + TINY).sqrt()


def speed_loss(distance: Tensor, theta: Tensor) -> Tensor:
    """Form `speed`: [P].

        (log distance - log theta - mean over pairs)^2

    distance: > 0, [P]. Scale-free: zero exactly when the images move at one speed everywhere. To first order the
    scaled-isometry objective of Isometric Diffusion (Hahm et al., ICML 2024), without derivatives.
    """
    log_speed = (distance.clamp(min=TINY) / theta).log()
    return (log_speed - log_speed.mean()).square()


def stress_loss(distance: Tensor, theta: Tensor) -> Tensor:
    """Form `stress`: [P]; its mean is the normalised stress of multidimensional scaling.

        P (a theta - distance)^2 / sum distance^2,   a = stop_gradient(sum distance theta / sum theta^2)

    Eq. 1 of the paper with the one scale a that fits best. Long pairs weigh more than short ones, unlike in `speed`.
    """
    a = ((distance * theta).sum() / theta.square().sum()).detach()
    return len(theta) * (a * theta - distance).square() / distance.square().sum().clamp(min=TINY)


def straight_loss(chord: Tensor, arc: Tensor) -> Tensor:
    """Form `straight`: [P].

        P (arc - chord)^2 / sum arc^2

    arc: the length of the path over its middle, >= chord. Eq. 1 of the paper made scale-free: it asks for paths that do
    not turn back, at any speed.
    """
    return len(arc) * (arc - chord).square() / arc.square().sum().clamp(min=TINY)


def literal_loss(chord: Tensor, arc: Tensor) -> Tensor:
    """Form `literal`, eq. 1 of the paper as printed: [P].

        (chord - arc)^2

    chord: the feature distance of a path's ends; arc: the sum over its segments (four or more). No latent distance
    occurs: zero when images lie on straight lines. Not scale-free.
    """
    return (chord - arc).square()


def jacobian_loss(jv: Tensor, jw: Tensor) -> Tensor:
    """Form `jacobian` (Isometric Diffusion, Hahm et al., ICML 2024), from two directional derivatives per point: [P].

        (Jv . Jw)^2 / (mean |Jv|^2)^2

    jv, jw: [P, F], J applied to independent random v, w of one length. Scale-free; with H = J^T J the mean over v and w
    is Tr(H^2) / Tr(H)^2, one over the effective rank, smallest when H ~ I.
    """
    mean_square = (jv.square().sum(1).mean() + jw.square().sum(1).mean()) / 2
    return (jv * jw).sum(1).square() / mean_square.square().clamp(min=TINY)


def borders_loss(q: Tensor, near: Tensor, theta: Tensor) -> Tensor:
    """Form `borders`: [P].

        sum over k of |q_k(G(z')) - q_k(G(z))| / theta

    q, near: memberships of a pair's images, [P, K], sums of 1. The total variation of q on the path between the
    latents: 2 for a path that crosses one border, however wide. Its mean is proportional to the area of the borders in
    the latent space (the co-area formula: Fleming and Rishel, 1960).
    """
    return (near - q).abs().sum(1) / theta


def cells_loss(log_q: Tensor, targets: Tensor) -> Tensor:
    """Form `cells`: [P].

        - sum over k of t_k(z) log q_k(G(z))

    log_q: [P, K]; targets t: [P, K], sums of 1. The cross-entropy: smallest at q = t, where it is the targets' entropy.
    """
    return -(targets * log_q).sum(1)


# -- the forms: loss and speed [P], from features [S, P, F] -----------------------------------------


def _speed(features: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    rho = distance(features[0], features[1])
    return speed_loss(rho, theta), rho / theta


def _stress(features: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    rho = distance(features[0], features[1])
    return stress_loss(rho, theta), rho / theta


def _literal(features: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    chord = distance(features[0], features[1])
    path = torch.cat([features[:1], features[2:], features[1:2]])
    arc = distance(path[1:], path[:-1]).sum(0)
    return literal_loss(chord, arc), arc / theta


def _straight(features: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    arc = distance(features[0], features[2]) + distance(features[2], features[1])
    return straight_loss(distance(features[0], features[1]), arc), arc / theta


def _jacobian(features: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    jv, jw = (features[0] - features[1]) / (2 * STEP), (features[2] - features[3]) / (2 * STEP)
    return jacobian_loss(jv, jw), jv.norm(dim=1)


def _borders(log_q: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    losses = borders_loss(log_q[0].exp(), log_q[1].exp(), theta)
    return losses, losses


def _cells(log_q: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    losses = cells_loss(log_q[0], targets)
    return losses, torch.full_like(losses, torch.nan)


FORMS = {
    "speed": Form(_pair, 2, _speed),
    "stress": Form(_pair, 2, _stress),
    "straight": Form(_pair_and_middle, 3, _straight),
    "literal": Form(_path, 2, _literal),
    "jacobian": Form(_cross, 0, _jacobian),
    "borders": Form(_pair, 2, _borders, fitted_to=Clusters),
    "cells": Form(_point, 1, _cells, fitted_to=Cells, hold_weight=True),
}
