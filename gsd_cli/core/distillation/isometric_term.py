"""The isometric term of the distillation: where it works in a step, what it finds there, and how much it weighs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gsd_cli.compute.device import full_precision
from gsd_cli.compute.distributed import World
from gsd_cli.core.distillation.draws import Draws
from gsd_cli.core.distillation.isometric_forms import FORMS
from gsd_cli.core.distillation.norm_ratio import NormRatio
from gsd_cli.core.distillation.target_layout import Layout, Sources, fit_layout
from gsd_cli.core.models.feature_maps import FeatureMap
from gsd_cli.core.models.sphere import angle
from gsd_cli.options import DistillSettings

CPU = torch.device("cpu")
SETTLING = 20
"""Turns of a `held` form in which its automatic weight is found; the memory's length."""
CHUNK = 64
"""Images at a time through the networks while a layout is fitted, where no micro-batch asks for fewer."""


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
    term alone. theta: [pairs], the angle of a pair; 0 for a form that looks at single points.
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
    """The term on one step's images: its mean, its gradient there, the speed's coefficient of variation (nan for a
    form of single points)."""

    loss: Tensor
    gradient: Tensor
    speed_spread: Tensor


class IsometricTerm:
    """One form in one feature map, with its schedule and its weight. State: the running norms of two gradients, and
    what the form has fitted."""

    def __init__(
        self, settings: DistillSettings, phi: FeatureMap, total: int, world: World | None = None,
        device: torch.device = CPU,
    ):  # fmt: skip
        self.settings, self.phi, self.total = settings, phi, total
        self.world = world or World()
        self.form = None if settings.irl == "off" or settings.irl_weight == 0 else FORMS[settings.irl]
        self.balance = NormRatio(device, held_after=SETTLING if self.held else math.inf)
        self.layout: Layout | None = None

    @property
    def group(self) -> int:
        """How many places of the batch a pair takes."""
        return 2 if self.form is None else self.form.group

    @property
    def held(self) -> bool:
        """Whether the form holds the weight that it began with: its gradients must keep their scale."""
        return self.form is not None and self.form.held

    def prepare(self, step: int, sources: Sources) -> None:
        """Fit what the form needs before its first step; all processes get the main one's."""
        if self.form is None or self.form.layout is None or self._strength(step) == 0 or self.layout is not None:
            return
        chunk = min(CHUNK, self.settings.micro_batch or CHUNK)
        layout = fit_layout(sources, self.settings.seed, chunk, cells=self.form.layout == "cells")
        # strided as a checkpoint gives them back, so that a resumed run rounds alike
        self.layout = layout.map(lambda tensor: self.world.from_main(tensor.contiguous()))

    def tensors(self) -> dict[str, Tensor]:
        """The state to save."""
        own = {"norms": self.balance.norms, "turns": self.balance.turns}
        return {**own, **(self.layout.tensors() if self.layout else {})}

    def load(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Restore what `tensors` gave."""
        # runs from before there were turns have no form that counts them
        balance = self.balance
        balance.norms = tensors["norms"].to(balance.norms)
        balance.turns = tensors.get("turns", torch.zeros(())).to(balance.turns)
        wanted, layout = self.form and self.form.layout, Layout.from_tensors(tensors, device)
        # another form may have been chosen since
        fits = layout is not None and wanted is not None and (wanted == "clusters" or layout.biases is not None)
        self.layout = layout if fits else None

    def due(self, step: int) -> bool:
        """Whether the term has its turn: every `irl_every`-th step."""
        return (step + 1) % self.settings.irl_every == 0

    def place(self, z: Tensor, draws: Draws, step: int) -> Latents:
        """Put neighbours into the batch z [B, ...] and name the extra points, if the term works now.

        z's rows are those that `arranged` numbers. Drawn from a stream of its own: runs
        with and without the term see the same other noise.
        """
        pairs = pair_count(len(z), self.settings.pair_every, self.group)
        if self.form is None or self._strength(step) == 0 or pairs == 0:
            return Latents(z, z[:0], torch.zeros(0, device=z.device))
        shared = self.form.shared
        directions = torch.stack([draws.normal("isometric", step, k, count=pairs) for k in range(2)])
        points = self.form.points(z[:pairs], directions, self.angles(draws, step, pairs))
        batch = torch.cat([*points[:shared], z[shared * pairs :]])
        extra = torch.cat([z[:0], *points[shared:]])
        return Latents(batch, extra, angle(points[0], points[min(1, len(points) - 1)]))

    def angles(self, draws: Draws, step: int, count: int) -> Tensor:
        """The step's angles tau of the first `count` rows, log-uniform, radians: [count]."""
        low, high = math.log(self.settings.tau_min), math.log(self.settings.tau_max)
        return (low + (high - low) * draws.uniform("isometric", step)[:count]).exp()

    def share_classes(self, labels: Tensor | None, latents: Latents) -> Tensor | None:
        """Labels drawn for the batch [B] to labels of batch and extra [B + M]: what lies round z has z's class."""
        if labels is None or latents.pairs == 0 or self.form is None:
            return labels
        own, shared = labels[: latents.pairs], self.form.shared
        copies = len(latents.extra) // latents.pairs
        return torch.cat([own.repeat(shared), labels[shared * latents.pairs :], own.repeat(copies)])

    def places(self, latents: Latents) -> Tensor:
        """The rows of latents.z and latents.extra, joined, that the form looks at, in its order: int64."""
        shared = self.form.shared * latents.pairs if self.form else 0
        rows = torch.arange(len(latents.z) + len(latents.extra), device=latents.z.device)
        return torch.cat([rows[:shared], rows[len(latents.z) :]])

    def measure(self, images: Tensor, latents: Latents, labels: Tensor | None = None) -> Measured:
        """The term over all processes, and its gradient at this one's images [B + M, ...]: those of
        latents.z and latents.extra, of classes `labels`.

        In float32 with TF32 off, whatever made the images. The forms compare pairs with each other, so
        features are gathered from all processes and micro-batches before they are judged.
        """
        gradient = torch.zeros_like(images, dtype=torch.float32)
        if self.form is None or latents.pairs == 0:
            nothing = gradient.new_zeros(())
            return Measured(nothing, gradient, nothing)
        places = self.places(latents)
        chunks = places.split(self.settings.micro_batch or len(places))
        with full_precision(images.device):
            with torch.set_grad_enabled(len(chunks) == 1):
                used = images[places].detach().float().requires_grad_(True)
                features = torch.cat([self._view(part) for part in used.split(len(chunks[0]))])
            said = self._said(latents, labels)
            losses, speed, slope = self._judge(features.detach().unflatten(0, (-1, latents.pairs)), said)
            slope = slope.flatten(0, 1)
            if len(chunks) == 1:
                (gradient[places],) = torch.autograd.grad(features, used, slope)
            else:  # once more with a graph, a part at a time
                for part, towards in zip(chunks, slope.split(len(chunks[0])), strict=True):
                    again = images[part].detach().float().requires_grad_(True)
                    (gradient[part],) = torch.autograd.grad(self._view(again), again, towards)
        return Measured(losses.mean(), gradient, speed.std(correction=0) / speed.mean())

    def _view(self, images: Tensor) -> Tensor:
        """What the form sees of images: features, or their log-memberships in clusters."""
        features = self.phi(images)
        return features if self.layout is None else self.layout.log_memberships(features)

    def _said(self, latents: Latents, labels: Tensor | None) -> Tensor:
        """What the latents say of their images, for the form to compare: angles [P], or targets [P, K]."""
        if self.layout is None or self.form is None or self.form.layout != "cells":
            return latents.theta
        points = slice(latents.pairs)
        return self.layout.targets(latents.z[points], None if labels is None else labels[points])

    def _judge(self, features: Tensor, said: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Losses and speeds of all processes' pairs, and the gradient at this one's features [S, P, F].

        Scaled by the number of processes, since they average their gradients.
        """
        assert self.form is not None
        own = features.requires_grad_(True)
        before, after = self.world.rank, self.world.size - self.world.rank - 1
        everyone = self.world.gather(own, dim=1).split(len(said), dim=1)
        joined = torch.cat([*everyone[:before], own, *everyone[len(everyone) - after :]], dim=1)
        losses, speed = self.form.judge(joined, self.world.gather(said))
        (slope,) = torch.autograd.grad(losses.mean(), own)
        return losses.detach(), speed.detach(), slope * self.world.size

    def weigh(self, rest: Tensor, own: Tensor, step: int) -> Tensor | float:
        """The weight at this step, from the norms of everything else's gradient at the images and of the term's own.

        `auto` holds own over rest, both smoothed, at `irl_ratio`, for a `held` form in its first turns
        alone: its weight is one number from then on; a number is taken as it is. Either is ramped up (`_strength`)
        and scaled by `irl_every`.
        """
        strength = self._strength(step)
        if self.settings.irl_weight != "auto":
            return strength * float(self.settings.irl_weight)
        if strength == 0 or self.settings.sidl_weight == 0:
            return strength
        self.balance.update(rest, own)
        return strength * self.balance.weight(self.settings.irl_ratio)

    def _strength(self, step: int) -> float:
        """0 for the first tenth of the run, then linear to full at a fifth; 0 off turn. Full is
        `irl_every`, at once when there is no other term."""
        if self.form is None or not self.due(step):
            return 0.0
        done = step / max(self.total, 1)
        ramp = 1.0 if self.settings.sidl_weight == 0 else min(1.0, max(0.0, (done - 0.1) / 0.1))
        return ramp * self.settings.irl_every
