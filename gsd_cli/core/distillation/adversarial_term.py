"""The adversarial term of the generator's loss: a discriminator of real images (SiDA: Zhou et al., ICLR 2025)."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.compute.device import adam, autocast
from gsd_cli.compute.distributed import World
from gsd_cli.core.distillation.discriminator import build_heads, encoder_maps
from gsd_cli.core.distillation.draws import Draws
from gsd_cli.core.distillation.losses import accuracy, adversarial_loss, discriminator_loss, smoothness_loss
from gsd_cli.core.distillation.micro_batches import column, micro_batches
from gsd_cli.core.distillation.noise_levels import NoiseRecipe
from gsd_cli.core.distillation.norm_ratio import TINY, NormRatio, TermGradient
from gsd_cli.core.distillation.real_images import RealImages, ResidentImages, keep_on, require_comparable
from gsd_cli.core.models.condition import UNCONDITIONAL, Condition, concatenate
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.training.checkpoint import load_module, load_optimizer, module_tensors, optimizer_tensors
from gsd_cli.core.training.descent import descend
from gsd_cli.options import DistillSettings

BETAS = (0.0, 0.99)
NEAR = 0.01
"""How far an image is moved to measure how steep the discriminator is: RMS per pixel."""
HEAD_START = 500
"""Images that the discriminator sees before the term begins."""


class AdversarialTerm:
    """Heads on the frozen teacher's encoder, their optimizer, and the weight of the term.

    ratio: the norm of the term's gradient at the images over the distillation's; 0 turns it off. Real and generated
    images share noise and noise level, so only the images differ. A row's draws depend on its number alone, and
    gradients are averaged, so micro-batches and processes change nothing.
    """

    def __init__(
        self, settings: DistillSettings, teacher: Denoiser, data: RealImages | None, draws: Draws, recipe: NoiseRecipe,
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

    @property
    def resident(self) -> bool:
        """Whether a step needs no images from the host."""
        return not self.on or isinstance(self.data, ResidentImages)

    def begun(self, step: int) -> bool:
        """Whether the term acts on the generator in this step: it is on, and its head start is over."""
        return self.on and (step + 1) * self.settings.batch_size > HEAD_START

    @property
    def updates_per_step(self) -> int:
        """Updates of the discriminator in a training step."""
        return self.settings.discriminator_steps if self.on else 0

    def update(
        self, images: Tensor, condition: Condition, skip: Tensor, *stream: int | str
    ) -> tuple[dict[str, Tensor], Tensor]:  # fmt: skip
        """One update of the discriminator, on generated images [B, C, H, W] of a condition and as many real ones.

        skip: 1 keeps the weights. Returns the loss and the share of logits with the right sign, on real and on
        generated images; and 1 if the update was not finite or skipped, else 0.
        """
        real, known = self._real_images(images, condition, *stream)
        sigma = self.draws.sigma(self.recipe.discriminator_sigma, *stream, "discriminator")
        noise = column(sigma) * self.draws.normal(*stream, "discriminator")
        nearby = self.draws.normal(*stream, "nearby") if self.settings.discriminator_penalty else noise
        totals = torch.zeros(3, device=images.device)
        self.adam.zero_grad(set_to_none=True)
        for part, last in micro_batches(self.settings.micro_batch, len(images)):
            both = torch.cat([real[part] + noise[part], images[part] + noise[part]])
            both_known = known if known.none else concatenate([known.rows(part), condition.rows(part)])
            with nullcontext() if last else self.world.without_sync(self._shared):
                losses, right = self._losses(both, sigma[part], both_known, nearby[part])
                (losses.sum() / len(images)).backward()
            totals += torch.stack([losses.detach().sum(), *(r.sum() for r in right)]) / len(images)
        loss, on_real, on_fake = self.world.sum(totals) / self.world.size
        skipped = descend(self.heads, self.adam, loss, skip=skip).skipped
        return {"discriminator_loss": loss, "accuracy_real": on_real, "accuracy_fake": on_fake}, skipped

    def _real_images(
        self, images: Tensor, condition: Condition, *stream: int | str
    ) -> tuple[Tensor, Condition]:  # fmt: skip
        """Random real images [B, C, H, W] and, for a class-conditional teacher, their classes."""
        assert self.data is not None
        resident = isinstance(self.data, ResidentImages)
        indices = self.draws.integers(len(self.data), *stream, "real", host=not resident)
        real = self.data.batch(indices).to(images.device, non_blocking=True)
        if condition.classes is None or self.data.labels is None:
            return real, UNCONDITIONAL
        return real, Condition(self.data.labels[indices].to(images.device))

    def _losses(
        self, both: Tensor, sigma: Tensor, condition: Condition, nearby: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:  # fmt: skip
        """Losses [B] on noisy real and then generated images [2 B, C, H, W], and the accuracies [B] on each."""
        count, penalty = len(sigma), self.settings.discriminator_penalty
        if penalty:
            near = both + NEAR * torch.cat([nearby, -nearby])
            both, condition = torch.cat([both, near]), condition.repeat(2)
        logits = self._logits(both, sigma.repeat(len(both) // count), condition, self._shared)
        real, fake = [m[:count] for m in logits], [m[count : 2 * count] for m in logits]
        losses = discriminator_loss(real, fake)
        if penalty:
            losses = losses + penalty * smoothness_loss(logits, NEAR).unflatten(0, (2, -1)).mean(0)
        return losses, (accuracy(real, real=True), accuracy(fake, real=False))

    def measure(self, images: Tensor, condition: Condition, step: int) -> TermGradient:
        """The generator's loss and its gradient at images [B, C, H, W]; zero during the head start."""
        if not self.begun(step):
            return TermGradient(images.new_zeros(()), torch.zeros_like(images))
        sigma = self.draws.sigma(self.recipe.discriminator_sigma, "adversarial", step)
        noise = column(sigma) * self.draws.normal("adversarial", step)
        total, gradients = images.new_zeros(()), []
        self.heads.requires_grad_(False)
        for part, _ in micro_batches(self.settings.micro_batch, len(images)):
            y = images[part].clone().requires_grad_(True)
            losses = adversarial_loss(self._logits(y + noise[part], sigma[part], condition.rows(part), self.heads))
            gradients.append(torch.autograd.grad(losses.sum() / len(images), y)[0])
            total = total + losses.detach().sum() / len(images)
        self.heads.requires_grad_(True)
        return TermGradient(self.world.sum(total) / self.world.size, torch.cat(gradients))

    def weigh(self, term: TermGradient, own_norm: Tensor, sidl_norm: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The term's weight [] at this step, from the norms of its gradient and the distillation's, and its figures.

        The norms are averaged over about 20 steps. Without a distillation loss the norm itself is held at `ratio`.
        """
        if not self.on:
            return torch.zeros_like(own_norm), {}
        distils = self.settings.sidl_weight > 0
        self.balance.update(sidl_norm if distils else torch.ones_like(own_norm), own_norm)
        weight = self.balance.weight(self.ratio)
        figures = {"adversarial_loss": term.loss, "adversarial_norm": own_norm, "adversarial_weight": weight}
        if distils:
            figures["adversarial_ratio"] = weight * own_norm / sidl_norm.clamp(min=TINY)
        return weight, figures

    def _logits(self, x: Tensor, sigma: Tensor, condition: Condition, heads: torch.nn.Module) -> list[Tensor]:
        """Maps of logits [B, h, w] of noisy images x [B, C, H, W]."""
        with autocast(x.device, self.settings.precision):
            with torch.set_grad_enabled(x.requires_grad):
                maps = encoder_maps(self.teacher, x, sigma)
            logits: list[Tensor] = heads(maps, sigma, condition)
        return logits

    def tensors(self) -> dict[str, Tensor]:
        """The heads, Adam's state and the running norms; nothing when the term is off."""
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
