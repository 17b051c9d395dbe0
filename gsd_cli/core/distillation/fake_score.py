"""The fake score g: a copy of the teacher that is trained on the generator's images all along (s_phi of eq. 2)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from gsd_cli.compute.device import adam, autocast, to_device
from gsd_cli.compute.distributed import World
from gsd_cli.core.distillation.draws import Draws
from gsd_cli.core.distillation.guidance import Guidance
from gsd_cli.core.distillation.losses import fake_score_loss
from gsd_cli.core.distillation.micro_batches import column, micro_batches
from gsd_cli.core.distillation.noise_levels import SIGMA_DATA, NoiseRecipe
from gsd_cli.core.distillation.placement import birthplace, place
from gsd_cli.core.models.adapters import adapt
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import set_dropout
from gsd_cli.core.training.checkpoint import load_module, load_optimizer, module_tensors, optimizer_tensors
from gsd_cli.core.training.descent import descend
from gsd_cli.options import DistillSettings

Levels = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Preconditioning:
    """How the fake score's estimate of a clean image is made from its network's, at noise levels sigma [B].

    share(sigma): how much of the network's difference from the teacher counts, [B]; None: the network's own estimate is
    taken. weight(sigma): the loss weight per squared pixel, [B].
    """

    share: Levels | None
    weight: Levels

    def estimate(self, f: Tensor, g: Tensor, sigma: Tensor) -> Tensor:
        """The estimate, from the teacher's f and the network's g, all [B, C, H, W]."""
        if self.share is None:
            return g
        return f + column(self.share(sigma)) * (g - f)


def build_preconditioning(settings: DistillSettings, teacher: Denoiser, recipe: NoiseRecipe) -> Preconditioning:
    """`--fake-score plain`: the network alone with the recipe's weight, as Zhou et al. (ICML 2024) published it.
    `bounded`: the teacher and a correction that high noise does not amplify.

        g = f + c(sigma) / a(sigma) (g_net - f),   weight 1 / c(sigma)^2,
        c(sigma) = sigma s / sqrt(sigma^2 + s^2),  s = 0.5

    a(sigma) is the factor of the network's output in the teacher's kind of prediction (`Denoiser.amplification`). A
    network that predicts eps errs by sigma times its own error: at sigma 20 an error of 0.01 is a fifth of the image's
    range, more than what separates fake from real. c is EDM's scale of the output (Karras et al. 2022, table 1), which
    high noise does not amplify. The weight makes the loss equal at all levels. The correction starts at zero and has
    the same optimum.
    """
    if settings.fake_score == "plain":
        return Preconditioning(None, recipe.weight)
    return Preconditioning(
        lambda sigma: _output_scale(sigma) / teacher.amplification(sigma), lambda sigma: _output_scale(sigma) ** -2
    )


def _output_scale(sigma: Tensor) -> Tensor:
    """c_out of Karras et al. (2022), table 1."""
    return sigma * SIGMA_DATA * torch.rsqrt(sigma**2 + SIGMA_DATA**2)


class FakeScore:
    """The network of the fake score, its optimizer, and its update on generated images.

    original: the teacher in float32, which the network is copied from; teacher: the same in the run's precision, which
    a bounded fake score calls, and whose weights adapters share: nothing calls the network in another precision. Both
    are frozen and whole. A row's draws depend on its number alone, and gradients are averaged over the processes.
    """

    def __init__(
        self, settings: DistillSettings, original: Denoiser, teacher: Denoiser, guidance: Guidance, draws: Draws,
        recipe: NoiseRecipe, world: World,
    ):  # fmt: skip
        s = settings
        self.settings, self.teacher, self.draws, self.recipe, self.world = s, teacher, draws, recipe, world
        self.guidance = guidance
        _, rank = s.adapter_ranks()
        if rank:  # pieces of one type are all that was tried
            self.network = adapt(original, rank, s.seed, "fake", original if s.shard else teacher)
        else:
            home = birthplace(s, draws.device)
            self.network = to_device(copy.deepcopy(original), home).requires_grad_(True)
        set_dropout(self.network.train(), s.dropout)
        place(self.network, s, draws.device)
        self.trained = [p for p in self.network.parameters() if p.requires_grad]
        self.preconditioning = build_preconditioning(s, original, recipe)
        self.lr = s.lr if s.fake_lr is None else s.fake_lr
        beta1 = s.beta1 if s.fake_beta1 is None else s.fake_beta1
        beta2 = s.beta2 if s.fake_beta2 is None else s.fake_beta2
        self.adam = adam(self.network, self.lr, (beta1, beta2), draws.device)
        # without the distillation loss nothing calls the fake score
        self.updates_per_step = s.fake_steps if s.sidl_weight else 0
        self._shared = world.share(self.network)

    def update(
        self, images: Tensor, condition: Condition, skip: Tensor, *stream: int | str
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """One step of denoising score matching on generated images [B, C, H, W] of a condition.

        skip: 1 keeps the weights. Returns the loss [], and 1 if the update was not finite or skipped, else 0.
        """
        noise, sigma = self.draws.normal(*stream, "noise"), self.draws.sigma(self.recipe.fake_sigma, *stream)
        condition = self.guidance.drop(condition, self.draws, *stream)
        self.adam.zero_grad(set_to_none=True)
        total = images.new_zeros(())
        for part, last in micro_batches(self.settings.micro_batch, len(images)):
            y = images[part]
            x = y + column(sigma[part]) * noise[part]
            with nullcontext() if last else self.world.without_sync(self._shared):
                g = self._estimate(x, sigma[part], condition.rows(part))
                losses = fake_score_loss(y, g, self.preconditioning.weight(sigma[part]))
                (losses.sum() / len(images)).backward()
            total = total + losses.detach().sum() / len(images)
        loss = self.world.sum(total) / self.world.size
        clip = self.settings.clip_grad or None
        return loss, descend(self.network, self.adam, loss, clip=clip, skip=skip).skipped

    def _estimate(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """g(x, sigma) with its guidance in training: its graph goes to the network's weights."""
        guidance, rows = self.guidance, (x, sigma, condition)
        with autocast(x.device, self.settings.precision):
            (g,) = guidance.estimates(self._shared, *rows, scales=(guidance.fake,))
            if self.preconditioning.share is None:
                return g
            with torch.no_grad():
                (f,) = guidance.estimates(self.teacher, *rows, scales=(guidance.fake,))
            return self.preconditioning.estimate(f, g, sigma)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """A context in which the network's weights need no gradient."""
        for parameter in self.trained:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self.trained:
                parameter.requires_grad_(True)

    def tensors(self) -> dict[str, Tensor]:
        """The network and Adam's state."""
        return {**module_tensors("fake", self.network), **optimizer_tensors("fake_adam", self.adam)}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave."""
        load_module("fake", self.network, tensors)
        load_optimizer("fake_adam", self.adam, tensors)
