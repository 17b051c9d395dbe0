"""The adversarial term of a distillation: a discriminator that learns, and its gradient at the generator's images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.compute.device import adam, autocast
from gsd_cli.compute.distributed import World
from gsd_cli.core.distillation.discriminator import build_heads, encoder_maps
from gsd_cli.core.distillation.draws import Draws
from gsd_cli.core.distillation.losses import accuracy, adversarial_loss, discriminator_loss, smoothness_loss
from gsd_cli.core.distillation.noise_levels import Recipe
from gsd_cli.core.distillation.norm_ratio import TINY, NormRatio
from gsd_cli.core.distillation.real_images import RealImages, ResidentImages, keep_on, require_comparable
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.training.checkpoint import load_module, load_optimizer, module_tensors, optimizer_tensors
from gsd_cli.core.training.descent import descend
from gsd_cli.options import DistillSettings

BETAS = (0.0, 0.99)
NEAR = 0.01
"""How far an image is moved to see how steep the discriminator is there: RMS per pixel."""
HEAD_START = 500
"""Images that the discriminator sees before the generator listens to it."""


@dataclass(frozen=True)
class Felt:
    """The term on one step's images: its mean loss and its gradient there [B, C, H, W]."""

    loss: Tensor
    gradient: Tensor


class AdversarialTerm:
    """Heads on the frozen teacher's encoder, their optimizer, and the weight of what they say.

    ratio: the norm of the term's gradient at the images over the distillation's; 0 turns it off. Real and
    generated images share noise and noise level, so only what lies under the noise tells them apart. A row's
    draws depend on its number alone, and gradients are averaged, so micro-batches and processes change nothing.
    """

    def __init__(
        self, settings: DistillSettings, teacher: Denoiser, data: RealImages | None, draws: Draws, recipe: Recipe,
        world: World | None = None,
    ):  # fmt: skip
        self.ratio = settings.adversarial_ratio(real=data is not None)
        self.settings, self.teacher, self.data = settings, teacher, data
        self.draws, self.recipe, self.world = draws, recipe, world or World()
        self.balance = NormRatio(draws.device)
        if not self.ratio:
            return
        self.data = keep_on(draws.device, require_comparable(data, teacher, "the discriminator", "--adversarial off"))
        with autocast(draws.device, settings.precision):  # the teacher's weights may be cast for it
            self.heads = build_heads(teacher, settings.seed)
        self.adam = adam(self.heads, settings.discriminator_lr, BETAS, draws.device)
        self._shared = self.world.share(self.heads)

    @property
    def on(self) -> bool:
        """Whether there is a discriminator."""
        return self.ratio > 0

    def learn(
        self, images: Tensor, labels: Tensor | None, bad: Tensor, *stream: int | str
    ) -> tuple[dict[str, Tensor], Tensor]:  # fmt: skip
        """One update of the discriminator on generated images [B, C, H, W] and as many real ones, unless `bad` is 1.

        Returns its loss and the share of logits with the right sign, on real and on generated images; and 1 where the
        update was not finite, or `bad`.
        """
        assert self.data is not None
        resident = isinstance(self.data, ResidentImages)
        indices = self.draws.integers(len(self.data), *stream, "real", host=not resident)
        indices = indices.to(images.device) if resident else indices
        real = self.data.batch(indices).to(images.device, non_blocking=True)
        classes = None
        if labels is not None and self.data.labels is not None:
            classes = self.data.labels[indices].to(images.device)
        sigma = self.draws.sigma(self.recipe.discriminator_sigma, *stream, "discriminator")
        noise = sigma.reshape(-1, 1, 1, 1) * self.draws.normal(*stream, "discriminator")
        penalty = self.settings.discriminator_penalty
        nearby = self.draws.normal(*stream, "nearby") if penalty else noise
        totals = torch.zeros(3, device=images.device)
        self.adam.zero_grad(set_to_none=True)
        for part, last in self._parts(len(images)):
            both = torch.cat([real[part] + noise[part], images[part] + noise[part]])
            given = None if labels is None or classes is None else torch.cat([classes[part], labels[part]])
            if penalty:
                near = both + NEAR * torch.cat([nearby[part], -nearby[part]])
                both, given = torch.cat([both, near]), None if given is None else given.repeat(2)
            logits = self._judge(both, sigma[part].repeat(len(both) // len(real[part])), given, self._shared)
            count = len(real[part])
            of_real, of_fake = [m[:count] for m in logits], [m[count : 2 * count] for m in logits]
            losses = discriminator_loss(of_real, of_fake)
            if penalty:
                losses = losses + penalty * smoothness_loss(logits, NEAR).unflatten(0, (2, -1)).mean(0)
            with nullcontext() if last else self.world.without_sync(self._shared):
                (losses.sum() / len(images)).backward()
            right = accuracy(of_real, real=True), accuracy(of_fake, real=False)
            totals += torch.stack([losses.detach().sum(), *(r.sum() for r in right)]) / len(images)
        loss, on_real, on_fake = self.world.sum(totals) / self.world.size
        bad = descend(self.heads, self.adam, loss, skip=bad).skipped
        return {"discriminator_loss": loss, "accuracy_real": on_real, "accuracy_fake": on_fake}, bad

    def measure(self, images: Tensor, labels: Tensor | None, step: int) -> Felt:
        """The generator's loss and its gradient at images [B, C, H, W]; zero during the head start."""
        if not self.on or (step + 1) * self.settings.batch_size <= HEAD_START:
            return Felt(images.new_zeros(()), torch.zeros_like(images))
        sigma = self.draws.sigma(self.recipe.discriminator_sigma, "adversarial", step)
        noise = sigma.reshape(-1, 1, 1, 1) * self.draws.normal("adversarial", step)
        total, gradients = images.new_zeros(()), []
        self.heads.requires_grad_(False)
        for part, _ in self._parts(len(images)):
            y = images[part].clone().requires_grad_(True)
            given = None if labels is None else labels[part]
            losses = adversarial_loss(self._judge(y + noise[part], sigma[part], given, self.heads))
            gradients.append(torch.autograd.grad(losses.sum() / len(images), y)[0])
            total = total + losses.detach().sum() / len(images)
        self.heads.requires_grad_(True)
        return Felt(self.world.sum(total) / self.world.size, torch.cat(gradients))

    def weigh(self, sidl_norm: Tensor, felt: Felt, own_norm: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The term's weight at this step, and its figures.

        Of the norms of both gradients at the images, smoothed over some 20 steps. Without a distillation loss there is
        nothing to be in proportion to: the norm itself is held.
        """
        if not self.on:
            return torch.zeros_like(own_norm), {}
        distils = self.settings.sidl_weight > 0
        self.balance.update(sidl_norm if distils else torch.ones_like(own_norm), own_norm)
        weight = self.balance.weight(self.ratio)
        figures = {"adversarial_loss": felt.loss, "adversarial_norm": own_norm, "adversarial_weight": weight}
        if distils:
            figures["adversarial_ratio"] = weight * own_norm / sidl_norm.clamp(min=TINY)
        return weight, figures

    def _judge(self, x: Tensor, sigma: Tensor, labels: Tensor | None, heads: torch.nn.Module) -> list[Tensor]:
        with autocast(x.device, self.settings.precision):
            with torch.set_grad_enabled(x.requires_grad):
                maps = encoder_maps(self.teacher, x, sigma)
            logits: list[Tensor] = heads(maps, sigma, labels)
        return logits

    def _parts(self, batch: int) -> Iterator[tuple[slice, bool]]:
        size = self.settings.micro_batch or batch
        for start in range(0, batch, size):
            yield slice(start, min(start + size, batch)), start + size >= batch

    def tensors(self) -> dict[str, Tensor]:
        """Heads, their optimizer and the running norms; nothing when the term is off."""
        if not self.on:
            return {}
        return {
            **module_tensors("discriminator", self.heads),
            **optimizer_tensors("discriminator_adam", self.adam),
            "adversarial_norms": self.balance.norms,
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave. Raises GsdError (exit 3) for a checkpoint without a discriminator."""
        if not self.on:
            return
        if "adversarial_norms" not in tensors:
            raise GsdError(
                "the checkpoint holds no discriminator",
                hint="it was made without one: give --adversarial off, or --no-resume",
                code=ExitCode.INPUT,
            )
        load_module("discriminator", self.heads, tensors)
        load_optimizer("discriminator_adam", self.adam, tensors)
        self.balance.norms = tensors["adversarial_norms"].to(self.balance.norms)
