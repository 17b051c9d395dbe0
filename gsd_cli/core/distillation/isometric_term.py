"""The isometric term (eq. 1 of the paper): its latents in a step, its gradient at their images, and its weight."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gsd_cli.compute.device import full_precision
from gsd_cli.compute.distributed import World
from gsd_cli.core.distillation.clusters import Clusters
from gsd_cli.core.distillation.draws import Draws
from gsd_cli.core.distillation.fit_sources import FitSources
from gsd_cli.core.distillation.isometric_forms import FORMS
from gsd_cli.core.distillation.latent_pairs import LatentBatch, pair_count
from gsd_cli.core.distillation.manifold_gradient import along_manifold
from gsd_cli.core.distillation.norm_ratio import TINY, NormRatio, TermGradient
from gsd_cli.core.models.condition import UNCONDITIONAL, Condition, concatenate
from gsd_cli.core.models.feature_maps import FeatureMap
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.models.sphere import angle
from gsd_cli.options import DistillSettings

CPU = torch.device("cpu")
SETTLING = 20
"""Turns of a form with a held weight in which the weight is found; the length of the norms' memory."""
CHUNK = 64
"""Images at a time through the networks while a form is fitted, unless micro-batches are smaller."""


@dataclass(frozen=True)
class IsometricGradient(TermGradient):
    """The term on the images of one step, with the coefficient of variation of the speed [] (nan for a form of single
    points)."""

    speed_spread: Tensor


class IsometricTerm:
    """One form in one feature map, with its schedule and its weight. State: the running norms of two gradients, and
    what the form was fitted to."""

    def __init__(
        self, settings: DistillSettings, phi: FeatureMap, total: int, world: World | None = None,
        device: torch.device = CPU,
    ):  # fmt: skip
        self.settings, self.phi, self.total = settings, phi, total
        self.world = world or World()
        self.form = None if settings.irl == "off" or settings.irl_weight == 0 else FORMS[settings.irl]
        self.balance = NormRatio(device, held_after=SETTLING if self.holds_weight else math.inf)
        self.fitted: Clusters | None = None
        # the strength of the present step: a tensor, since a recorded step knows no other numbers than its own
        self._scale = torch.zeros((), device=device)

    @property
    def group(self) -> int:
        """Places of the batch that a pair takes."""
        return 2 if self.form is None else self.form.group

    @property
    def holds_weight(self) -> bool:
        """Whether the weight is held once it is found: the form's gradients must then keep their scale."""
        return self.form is not None and self.form.hold_weight

    @property
    def keeps_scale(self) -> bool:
        """Whether the size of the gradient along the manifold counts: a given weight, or one that is held, multiplies
        J J^T g itself, and not a vector of arbitrary length."""
        return self.holds_weight or self.settings.irl_weight != "auto"

    def begin(self, step: int) -> None:
        """Set the term's strength in this step, for `weight`."""
        self._scale.fill_(self.strength(step))

    def prepare(self, step: int, sources: FitSources) -> None:
        """Fit the form before its first step, if it is one that is fitted; all processes get the main one's fit."""
        if self.form is None or self.form.fitted_to is None or self.strength(step) == 0 or self.fitted is not None:
            return
        chunk = min(CHUNK, self.settings.micro_batch or CHUNK)
        fitted = self.form.fitted_to.fit(sources, self.settings.seed, chunk)
        # contiguous as in a checkpoint, so that a resumed run rounds in the same way
        self.fitted = fitted.map(lambda tensor: self.world.from_main(tensor.contiguous()))

    def tensors(self) -> dict[str, Tensor]:
        """The state to save."""
        own = {"norms": self.balance.norms, "turns": self.balance.turns}
        return {**own, **(self.fitted.tensors() if self.fitted else {})}

    def load(self, tensors: dict[str, Tensor], device: torch.device) -> None:
        """Restore what `tensors` gave."""
        # checkpoints from before `turns` existed are of forms that do not count them
        balance = self.balance
        balance.norms = tensors["norms"].to(balance.norms)
        balance.turns = tensors.get("turns", torch.zeros(())).to(balance.turns)
        # another form may have been chosen since: None if this one needs another fit
        fitted_to = self.form and self.form.fitted_to
        self.fitted = fitted_to.from_tensors(tensors, device) if fitted_to else None

    def due(self, step: int) -> bool:
        """Whether the term has its turn: every `irl_every`-th step."""
        return (step + 1) % self.settings.irl_every == 0

    def make_pairs(self, z: Tensor, draws: Draws, step: int) -> LatentBatch:
        """Put neighbours into the batch z [B, C, H, W] and add the extra latents, if the term is on in this step.

        z's rows are in `row_order`. Angles and directions have their own random stream: runs with and without the term
        get the same other noise.
        """
        pairs = pair_count(len(z), self.settings.pair_every, self.group)
        if self.form is None or self.strength(step) == 0 or pairs == 0:
            return LatentBatch(z, z[:0], torch.zeros(0, device=z.device))
        shared = self.form.shared
        directions = torch.stack([draws.normal("isometric", step, k, count=pairs) for k in range(2)])
        points = self.form.points(z[:pairs], directions, self.draw_angles(draws, step, pairs))
        batch = torch.cat([*points[:shared], z[shared * pairs :]])
        extra = torch.cat([z[:0], *points[shared:]])
        return LatentBatch(batch, extra, angle(points[0], points[min(1, len(points) - 1)]))

    def draw_angles(self, draws: Draws, step: int, count: int) -> Tensor:
        """The angles tau of the first `count` rows, log-uniform in [tau_min, tau_max], radians: [count]."""
        low, high = math.log(self.settings.tau_min), math.log(self.settings.tau_max)
        return (low + (high - low) * draws.uniform("isometric", step)[:count]).exp()

    def share_condition(self, drawn: Condition, latents: LatentBatch) -> Condition:
        """The condition of batch and extra latents [B + M], from that drawn for the batch [B]: neighbours of z get
        z's."""
        if drawn.none or latents.pairs == 0 or self.form is None:
            return drawn
        own, shared = drawn.rows(slice(latents.pairs)), self.form.shared
        copies, rest = len(latents.extra) // latents.pairs, drawn.rows(slice(shared * latents.pairs, None))
        return concatenate([own.repeat(shared), rest, own.repeat(copies)])

    def rows(self, latents: LatentBatch) -> Tensor:
        """The rows of batch and extra latents [B + M] that the form looks at, in its order: int64 [S P]."""
        shared = self.form.shared * latents.pairs if self.form else 0
        rows = torch.arange(len(latents.z) + len(latents.extra), device=latents.z.device)
        return torch.cat([rows[:shared], rows[len(latents.z) :]])

    def measure(self, images: Tensor, latents: LatentBatch, condition: Condition = UNCONDITIONAL) -> IsometricGradient:
        """The term over all processes, and its gradient at this one's images [B + M, C, H, W]: those of latents.z and
        latents.extra, of the condition of these B + M images.

        In float32 with TF32 off, whatever precision made the images. The forms compare pairs with each other, so
        features are gathered from all processes and micro-batches before they are compared.
        """
        gradient = torch.zeros_like(images, dtype=torch.float32)
        if self.form is None or latents.pairs == 0:
            zero = gradient.new_zeros(())
            return IsometricGradient(zero, gradient, zero)
        rows = self.rows(latents)
        chunks = rows.split(self.settings.micro_batch or len(rows))
        with full_precision(images.device):
            with torch.set_grad_enabled(len(chunks) == 1):
                used = images[rows].detach().float().requires_grad_(True)
                features = torch.cat([self._features(part) for part in used.split(len(chunks[0]))])
            apart = features.detach().unflatten(0, (-1, latents.pairs))
            losses, speed, slope = self._compare(apart, latents, condition)
            slope = slope.flatten(0, 1)
            if len(chunks) == 1:
                (gradient[rows],) = torch.autograd.grad(features, used, slope)
            else:  # once more with a graph, a part at a time
                for part, part_slope in zip(chunks, slope.split(len(chunks[0])), strict=True):
                    again = images[part].detach().float().requires_grad_(True)
                    (gradient[part],) = torch.autograd.grad(self._features(again), again, part_slope)
        return IsometricGradient(losses.mean(), gradient, speed.std(correction=0) / speed.mean())

    def _features(self, images: Tensor) -> Tensor:
        """What the form sees of images: features [N, F], or log-memberships in clusters [N, K]."""
        features = self.phi(images)
        return features if self.fitted is None else self.fitted.log_memberships(features)

    def _compare(
        self, features: Tensor, latents: LatentBatch, condition: Condition
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """Losses and speeds of all processes' pairs, and the loss's gradient at this one's features [S, P, F].

        The gradient is scaled by the number of processes, since they average their gradients.
        """
        assert self.form is not None
        wanted, points = latents.theta, slice(latents.pairs)
        if self.fitted is not None:
            wanted = self.fitted.of_latents(latents.z[points], condition.rows(points), wanted)
        own = features.requires_grad_(True)
        before, after = self.world.rank, self.world.size - self.world.rank - 1
        everyone = self.world.gather(own, dim=1).split(latents.pairs, dim=1)
        joined = torch.cat([*everyone[:before], own, *everyone[len(everyone) - after :]], dim=1)
        losses, speed = self.form.compare(joined, self.world.gather(wanted))
        (slope,) = torch.autograd.grad(losses.mean(), own)
        return losses.detach(), speed.detach(), slope * self.world.size

    def restrict(
        self, term: IsometricGradient, latents: LatentBatch, condition: Condition, generator: Generator
    ) -> IsometricGradient:  # fmt: skip
        """The gradient as `--irl-gradient` lets it act: any change of the images, or only those along the manifold of
        the generator's images."""
        if self.settings.irl_gradient == "free" or not latents.pairs:
            return term
        rows = self.rows(latents)
        z = torch.cat([latents.z, latents.extra])[rows]
        gradient = torch.zeros_like(term.gradient)
        generator.eval()  # dropout masks would differ between the two calls that are compared
        with full_precision(z.device):
            along = along_manifold(
                generator, z, term.gradient[rows], condition.rows(rows), self.world, self.settings.micro_batch,
                scaled=self.keeps_scale,
            )  # fmt: skip
        generator.train()
        # processes average their gradients; a scaled one contains that factor already
        gradient[rows] = along if self.keeps_scale else along * self.world.size
        return replace(term, gradient=gradient)

    def weigh(
        self, term: IsometricGradient, own_norm: Tensor, rest_norm: Tensor, step: int
    ) -> tuple[Tensor | float, dict[str, Tensor | float]]:  # fmt: skip
        """The term's weight at this step, from the norms of its gradient at the images and of all other terms' sum, and
        its figures, if the term has its turn."""
        weight = self.weight(own_norm, rest_norm, step)
        if not self.due(step):
            return weight, {}
        figures = {"irl_loss": term.loss, "irl_norm": own_norm, "irl_weight": weight, "speed_spread": term.speed_spread}
        if self.settings.sidl_weight:
            figures["irl_ratio"] = weight * own_norm / rest_norm.clamp(min=TINY)
        return weight, figures

    def weight(self, own_norm: Tensor, rest_norm: Tensor, step: int) -> Tensor | float:
        """`auto` holds own_norm over rest_norm, averaged over 20 steps, at `irl_ratio`; a number is the weight.

        A form with a held weight finds it in its first turns only. Both kinds are multiplied by `strength`.
        """
        if self.strength(step) == 0:
            return 0.0
        if self.settings.irl_weight != "auto":
            return self._scale * float(self.settings.irl_weight)
        if self.settings.sidl_weight == 0:
            return self._scale.clone()
        self.balance.update(rest_norm, own_norm)
        return self._scale * self.balance.weight(self.settings.irl_ratio)

    def strength(self, step: int) -> float:
        """0 for the first tenth of the run, then linear to full at a fifth; 0 in steps without a turn. Full is
        `irl_every`, from the first step if there is no distillation loss."""
        if self.form is None or not self.due(step):
            return 0.0
        done = step / max(self.total, 1)
        ramp = 1.0 if self.settings.sidl_weight == 0 else min(1.0, max(0.0, (done - 0.1) / 0.1))
        return ramp * self.settings.irl_every
