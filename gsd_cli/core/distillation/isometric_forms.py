"""The forms of the isometric term: which latents one looks at, and what it asks of their images.

A form names the points it looks at around z and judges what is seen there. Points that are N(0, I) and
few enough take places in the batch and serve the distillation loss too; the others are extra.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gsd_cli.core.distillation.losses import (
    borders_loss,
    cells_loss,
    distance,
    jacobian_loss,
    literal_loss,
    speed_loss,
    straight_loss,
    stress_loss,
)
from gsd_cli.core.models.sphere import rotate, tangent

SEGMENTS = 4
"""Pieces of the path whose length `literal` compares with its chord."""
STEP = 0.05
"""Half the width, in radians, of the central differences of `jacobian`."""


@dataclass(frozen=True)
class Form:
    """One form of the term.

    points(z, directions, tau): the S latents [P, ...] looked at, for directions [2, P, ...] ~ N(0, I)
    and angles tau [P]; the first `shared` of them stand in the batch, at and beside z.
    judge(seen, latent): the loss and the speed (distance per radian, nan where nothing moves), [P] each. seen: the
    images' features [S, P, F]; latent: the angle theta [P] of the first two points.
    layout: what is fitted, once, before the form's first step (`layout_fit`). With `clusters` or `cells`, seen are
    the log-memberships of the images in clusters [S, P, K]; with `cells`, latent are z's own targets [P, K].
    held: an automatic weight is found in the form's first steps and held from then on.
    """

    shared: int
    points: Callable[[Tensor, Tensor, Tensor], list[Tensor]]
    judge: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    layout: Literal["clusters", "cells"] | None = None
    held: bool = False

    @property
    def group(self) -> int:
        """How many places of the batch a point takes with what lies round it; two where it takes none."""
        return self.shared or 2


def _point(z: Tensor, directions: Tensor, tau: Tensor) -> list[Tensor]:
    return [z]


def _pair(z: Tensor, directions: Tensor, tau: Tensor) -> list[Tensor]:
    return [z, rotate(z, directions[0], tau)]


def _path(z: Tensor, directions: Tensor, tau: Tensor) -> list[Tensor]:
    inner = [rotate(z, directions[0], tau * k / SEGMENTS) for k in range(1, SEGMENTS)]
    return [*_pair(z, directions, tau), *inner]


def _bow(z: Tensor, directions: Tensor, tau: Tensor) -> list[Tensor]:
    return [*_pair(z, directions, tau), rotate(z, directions[0], tau / 2)]


def _cross(z: Tensor, directions: Tensor, tau: Tensor) -> list[Tensor]:
    step = torch.full_like(tau, STEP)
    return [rotate(z, tangent(w, z), sign * step) for w in directions for sign in (1, -1)]


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
    found = borders_loss(log_q[0].exp(), log_q[1].exp(), theta)
    return found, found


def _cells(log_q: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    found = cells_loss(log_q[0], targets)
    return found, torch.full_like(found, torch.nan)


FORMS = {
    "speed": Form(2, _pair, _speed),
    "stress": Form(2, _pair, _stress),
    "straight": Form(3, _bow, _straight),
    "literal": Form(2, _path, _literal),
    "jacobian": Form(0, _cross, _jacobian),
    "borders": Form(2, _pair, _borders, layout="clusters"),
    "cells": Form(1, _point, _cells, layout="cells", held=True),
}


def looked_at(form: str) -> int:
    """How many points a form looks at for a point z; 0 for `off`."""
    if form == "off":
        return 0
    return len(FORMS[form].points(torch.ones(1, 1), torch.ones(2, 1, 1), torch.ones(1)))
