"""The isometric term of the distillation: which latents a step compares, and how much it weighs.

A form names the points it looks at around z and judges their features. Points that are N(0, I) and
few enough take places in the batch and serve the distillation loss too; the others are extra.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gsd_cli.core.device import full_precision
from gsd_cli.core.losses import distance, jacobian_loss, literal_loss, speed_loss, straight_loss, stress_loss
from gsd_cli.core.noise import angle, generator_for, normal_rows, rotate, tangent
from gsd_cli.core.phi import Phi
from gsd_cli.core.world import World
from gsd_cli.options import DistillSettings

SEGMENTS = 4
"""Pieces of the path whose length `literal` compares with its chord."""
STEP = 0.05
"""Half the width, in radians, of the central differences of `jacobian`."""
NORM_MEMORY = 0.95
"""Per-step memory of the gradient norms that the automatic weight is computed from."""


@dataclass(frozen=True)
class Form:
    """One form of the term.

    points(z, directions, tau): the S latents [P, ...] looked at, for directions [2, P, ...] ~ N(0, I)
    and angles tau [P]; the first `shared` of them stand in the batch, at and beside z.
    judge(features, theta): from features [S, P, F] and the angle theta [P] of the first two points,
    the loss and the speed (feature distance per radian), [P] each.
    """

    shared: int
    points: Callable[[Tensor, Tensor, Tensor], list[Tensor]]
    judge: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


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


FORMS = {
    "speed": Form(2, _pair, _speed),
    "stress": Form(2, _pair, _stress),
    "straight": Form(3, _bow, _straight),
    "literal": Form(2, _path, _literal),
    "jacobian": Form(0, _cross, _jacobian),
}


def looked_at(form: str) -> int:
    """How many points a form looks at for a pair; 0 for `off`."""
    if form == "off":
        return 0
    return len(FORMS[form].points(torch.ones(1, 1), torch.ones(2, 1, 1), torch.ones(1)))


def pair_count(batch: int, every: int, group: int = 2) -> int:
    """How many pairs a batch has when one image in `every` gets a neighbour and a pair takes `group` places; two at
    least where there is room, since most forms compare them."""
    return min(batch // group, max(2, batch // max(every, group)))


def arranged(batch: int, every: int, world: World, group: int = 2) -> list[int]:
    """The numbers, within a batch over all processes, of this one's rows: points, their neighbours, with a group of
    three what lies between, the rest.

    A pair's places have neighbouring numbers, so that a share of the batch holds whole pairs, and the same
    ones however many processes there are (as long as each one's share is a multiple of `every`, and holds two).
    """
    own = list(range(batch)[world.rows(batch)])
    share, pairs = len(own), pair_count(len(own), every, group)
    stride = share // pairs if pairs else 1
    paired = [row for place in range(group) for row in own[place : pairs * stride : stride]]
    rest = set(own) - set(paired)
    return [*paired, *sorted(rest)]


@dataclass(frozen=True)
class Latents:
    """The latents of one generator step.

    z: [B, ...] ~ N(0, I), for both terms; its first `pairs` are the points z, the next `pairs` their
    neighbours, the next what lies between them, where the form has them. extra: [M, ...], for the isometric
    term alone. theta: [pairs].
    """

    z: Tensor
    extra: Tensor
    theta: Tensor

    @property
    def pairs(self) -> int:
        """How many points the term compares at; 0 when it rests in this step."""
        return len(self.theta)


@dataclass(frozen=True)
class Measured:
    """The term on one step's images: its mean, its gradient there, the speed's coefficient of variation."""

    loss: float
    gradient: Tensor
    speed_spread: float


class IsometricTerm:
    """One form in one feature map, with its schedule and its weight. State: two gradient norms."""

    def __init__(self, settings: DistillSettings, phi: Phi, total: int, world: World | None = None):
        self.settings, self.phi, self.total = settings, phi, total
        self.world = world or World()
        self.form = None if settings.irl == "off" or settings.irl_weight == 0 else FORMS[settings.irl]
        # running norms of the two gradients at the images
        self.norms = torch.zeros(2, dtype=torch.float64)

    @property
    def group(self) -> int:
        """How many places of the batch a pair takes."""
        return 2 if self.form is None else max(2, self.form.shared)

    def due(self, step: int) -> bool:
        """Whether the term has its turn: every `irl_every`-th step."""
        return (step + 1) % self.settings.irl_every == 0

    def place(self, z: Tensor, step: int) -> Latents:
        """Put neighbours into the batch z [B, ...] and name the extra points, if the term works now.

        z's rows are those that `arranged` numbers. Drawn from a stream of its own: runs
        with and without the term see the same other noise.
        """
        pairs = pair_count(len(z), self.settings.pair_every, self.group)
        if self.form is None or self._strength(step) == 0 or pairs == 0:
            return Latents(z, z[:0], torch.zeros(0, device=z.device))
        everyone = len(z) * self.world.size
        shared, seed, every = self.form.shared, self.settings.seed, self.settings.pair_every
        own = arranged(everyone, every, self.world, self.group)[:pairs]
        directions = torch.stack([normal_rows(own, z.shape[1:], seed, "isometric", step, k) for k in range(2)]).to(z)
        tau = self.angles(everyone, step)[own].to(z)
        points = self.form.points(z[:pairs], directions, tau)
        batch = torch.cat([*points[:shared], z[shared * pairs :]])
        extra = torch.cat([z[:0], *points[shared:]])
        return Latents(batch, extra, angle(points[0], points[1]))

    def angles(self, count: int, step: int) -> Tensor:
        """The step's angles tau, log-uniform, radians: [count]."""
        uniform = torch.rand(count, generator=generator_for(self.settings.seed, "isometric", step))
        low, high = math.log(self.settings.tau_min), math.log(self.settings.tau_max)
        return (low + (high - low) * uniform).exp()

    def share_classes(self, labels: Tensor | None, latents: Latents) -> Tensor | None:
        """Labels drawn for the batch [B] to labels of batch and extra [B + M]: what lies round z has z's class."""
        if labels is None or latents.pairs == 0 or self.form is None:
            return labels
        own, shared = labels[: latents.pairs], self.form.shared
        copies = len(latents.extra) // latents.pairs
        return torch.cat([own.repeat(shared), labels[shared * latents.pairs :], own.repeat(copies)])

    def places(self, latents: Latents) -> Tensor:
        """The rows of latents.z and latents.extra, joined, that the form looks at, in its order: int64."""
        if self.form is None or latents.pairs == 0:
            return torch.zeros(0, dtype=torch.long)
        batch = len(latents.z)
        return torch.cat([
            torch.arange(self.form.shared * latents.pairs), torch.arange(batch, batch + len(latents.extra))
        ])  # fmt: skip

    def measure(self, images: Tensor, latents: Latents) -> Measured:
        """The term over all processes, and its gradient at this one's images [B + M, ...]: those of
        latents.z and latents.extra.

        In float32 with TF32 off, whatever made the images. The forms compare pairs with each other, so
        features are gathered from all processes and micro-batches before they are judged.
        """
        gradient = torch.zeros_like(images, dtype=torch.float32)
        if self.form is None or latents.pairs == 0:
            return Measured(0.0, gradient, 0.0)
        places = self.places(latents).to(images.device)
        chunks = places.split(self.settings.micro_batch or len(places))
        with full_precision(images.device):
            with torch.set_grad_enabled(len(chunks) == 1):
                used = images[places].detach().float().requires_grad_(True)
                features = torch.cat([self.phi(part) for part in used.split(len(chunks[0]))])
            losses, speed, slope = self._judge(features.detach().unflatten(0, (-1, latents.pairs)), latents.theta)
            slope = slope.flatten(0, 1)
            if len(chunks) == 1:
                (gradient[places],) = torch.autograd.grad(features, used, slope)
            else:  # once more with a graph, a part at a time
                for part, towards in zip(chunks, slope.split(len(chunks[0])), strict=True):
                    again = images[part].detach().float().requires_grad_(True)
                    (gradient[part],) = torch.autograd.grad(self.phi(again), again, towards)
        return Measured(losses.mean().item(), gradient, (speed.std(correction=0) / speed.mean()).item())

    def _judge(self, features: Tensor, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Losses and speeds of all processes' pairs, and the gradient at this one's features [S, P, F].

        Scaled by the number of processes, since they average their gradients.
        """
        assert self.form is not None
        own = features.requires_grad_(True)
        before, after = self.world.rank, self.world.size - self.world.rank - 1
        everyone = self.world.gather(own, dim=1).split(len(theta), dim=1)
        joined = torch.cat([*everyone[:before], own, *everyone[len(everyone) - after :]], dim=1)
        losses, speed = self.form.judge(joined, self.world.gather(theta))
        (slope,) = torch.autograd.grad(losses.mean(), own)
        return losses.detach(), speed.detach(), slope * self.world.size

    def weigh(self, sidl_norm: float, irl_norm: float, step: int) -> float:
        """The weight at this step, from the norms of both gradients at the images.

        `auto` holds irl_norm over sidl_norm, both smoothed, at `irl_ratio`; a number is taken as it
        is. Either is ramped up (`_strength`) and scaled by `irl_every`.
        """
        strength = self._strength(step)
        if self.settings.irl_weight != "auto":
            return strength * float(self.settings.irl_weight)
        if strength == 0 or self.settings.sidl_weight == 0:
            return strength
        now = torch.tensor([sidl_norm, irl_norm], dtype=torch.float64)
        if now.isfinite().all():
            self.norms = NORM_MEMORY * self.norms + (1 - NORM_MEMORY) * now
        # both start at zero, so the bias of a short history cancels in the quotient
        sidl, irl = self.norms.tolist()
        return strength * self.settings.irl_ratio * sidl / irl if irl > 0 else 0.0

    def _strength(self, step: int) -> float:
        """0 for the first tenth of the run, then linear to full at a fifth; 0 off turn. Full is
        `irl_every`, at once when there is no other term."""
        if self.form is None or not self.due(step):
            return 0.0
        done = step / max(self.total, 1)
        ramp = 1.0 if self.settings.sidl_weight == 0 else min(1.0, max(0.0, (done - 0.1) / 0.1))
        return ramp * self.settings.irl_every
