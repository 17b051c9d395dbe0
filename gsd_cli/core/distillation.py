"""Geometric Score Distillation: the training step.

Score identity Distillation (Zhou et al., ICML 2024) plus an isometric term, weighed against each
other where they meet: at the generator's images.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from gsd_cli.core.checkpoint import load_module, load_optimizer, module_tensors, optimizer_tensors
from gsd_cli.core.denoiser import Denoiser
from gsd_cli.core.device import autocast, full_precision
from gsd_cli.core.generator import Generator, set_dropout
from gsd_cli.core.isometric import IsometricTerm, Latents
from gsd_cli.core.losses import fake_score_loss, score_identity_loss
from gsd_cli.core.noise import generator_for
from gsd_cli.core.phi import Phi, teacher_features
from gsd_cli.core.training import ema_decay, update_average
from gsd_cli.errors import ExitCode, GsdError
from gsd_cli.options import DistillSettings

Evaluate = Callable[[Generator, int], dict[str, float]]


class Distillation:
    """Teacher f (frozen), fake score g, generator G and its moving average, one device."""

    def __init__(
        self,
        teacher: Denoiser,
        settings: DistillSettings,
        total_steps: int,
        device: torch.device,
        evaluate: Evaluate,
        phi: Phi | None = None,
    ):
        if settings.t_max >= teacher.schedule.steps:
            raise GsdError(
                f"the teacher has {teacher.schedule.steps} timesteps, the distillation draws up to {settings.t_max}",
                hint=f"give --t-max {round(0.793 * teacher.schedule.steps)}",
                code=ExitCode.USAGE,
            )
        self.settings, self.device = settings, device
        self.batch_size = settings.batch_size
        self.teacher = copy.deepcopy(teacher).to(device).eval().requires_grad_(False)
        self.isometric = IsometricTerm(
            settings, phi or (lambda images: teacher_features(self.teacher, images)), total_steps
        )
        self.generator = Generator.from_teacher(teacher, settings.sigma_init, settings.dropout).to(device).train()
        self.fake = copy.deepcopy(teacher).to(device).train().requires_grad_(True)
        set_dropout(self.fake, settings.dropout)
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        betas = (settings.beta1, settings.beta2)
        self.generator_adam = torch.optim.Adam(self.generator.parameters(), settings.lr, betas)
        self.fake_adam = torch.optim.Adam(self.fake.parameters(), settings.fake_lr or settings.lr, betas)
        self._evaluate = evaluate

    def step(self, step: int) -> dict[str, float]:
        """One round: the fake score learns the generator's images, then the generator moves."""
        if self.settings.dropout:  # its masks come from torch's global generator
            torch.manual_seed(generator_for(self.settings.seed, "dropout", step).initial_seed())
        for k in range(self.settings.fake_steps):
            loss = self._fake_step(step, k)
            if not math.isfinite(loss):
                return {"fake_loss": loss}
        metrics = {"fake_loss": loss, **self._generator_step(step)}
        if math.isfinite(metrics["sidl_loss"]) and math.isfinite(metrics.get("irl_loss", 0.0)):
            seen = (step + 1) * self.batch_size
            update_average(self.average, self.generator, ema_decay(self.batch_size, seen, self.settings.ema_half_life))
        return metrics

    def evaluate(self, step: int) -> dict[str, float]:
        """Measure the moving average."""
        return self._evaluate(self.average, step)

    def _fake_step(self, step: int, k: int) -> float:
        random = generator_for(self.settings.seed, "fake", step, k)
        z = self._normal(random)
        labels = self._labels(random)
        with torch.no_grad(), self._autocast():
            y = self.generator(z, labels).float()
        sigma, noise = self._noise_level(random), self._normal(random)
        with self._autocast():
            g = self.fake.given(labels)(y + _column(sigma) * noise, sigma).float()
        loss = fake_score_loss(y, g, sigma**-2).mean()
        if torch.isfinite(loss):
            self.fake_adam.zero_grad(set_to_none=True)
            loss.backward()
            self._descend(self.fake, self.fake_adam)
        return loss.item()

    def _generator_step(self, step: int) -> dict[str, float]:
        random = generator_for(self.settings.seed, "generator", step)
        latents = self.isometric.place(self._normal(random), step)
        labels = self.isometric.share_classes(self._labels(random), latents)
        y = self._images(latents, labels)
        # the two terms meet at the images: their gradients there can be measured, weighed and
        # added before one backward pass through the generator
        images = y.detach().requires_grad_(True)
        sidl, sidl_grad = self._sidl(images, labels, random)
        irl = self.isometric.measure(images, latents)
        sidl_norm, irl_norm = sidl_grad.norm().item(), irl.gradient.norm().item()
        weight = self.isometric.weigh(sidl_norm, irl_norm, step)
        metrics = {"sidl_loss": sidl, "sidl_norm": sidl_norm}
        if self.isometric.due(step):
            metrics |= {"irl_loss": irl.loss, "irl_norm": irl_norm, "irl_weight": weight}
            metrics |= {"speed_spread": irl.speed_spread}
            if self.settings.sidl_weight:
                metrics["irl_ratio"] = weight * irl_norm / max(sidl_norm, 1e-30)
        gradient = sidl_grad + weight * irl.gradient
        if torch.isfinite(gradient).all():
            self.generator_adam.zero_grad(set_to_none=True)
            with full_precision(self.device) if len(latents.extra) else nullcontext():
                y.backward(gradient)
            self._descend(self.generator, self.generator_adam)
        else:
            metrics["sidl_loss"] = math.nan
        return metrics

    def _images(self, latents: Latents, labels: Tensor | None) -> Tensor:
        """Images of the batch, then of the isometric term's extra latents: [B + M, C, H, W]."""
        own, extra = (None, None) if labels is None else labels.tensor_split([self.batch_size])
        with self._autocast():
            y = self.generator(latents.z, own).float()
        if not len(latents.extra):
            return y
        # these are subtracted from each other: low precision would leave noise
        with full_precision(self.device):
            return torch.cat([y, self.generator(latents.extra, extra)])

    def _sidl(self, images: Tensor, labels: Tensor | None, random: torch.Generator) -> tuple[float, Tensor]:
        """The distillation loss, and its weighted gradient at the images; extra ones have none."""
        if self.settings.sidl_weight == 0:
            return 0.0, torch.zeros_like(images)
        sigma, noise = self._noise_level(random), self._normal(random)
        y = images[: self.batch_size]
        x = y + _column(sigma) * noise
        self.fake.requires_grad_(False)
        with self._autocast():
            own = labels if labels is None else labels[: self.batch_size]
            f, g = (model.given(own)(x, sigma).float() for model in (self.teacher, self.fake))
        loss = score_identity_loss(y, f, g, self.settings.alpha).mean()
        (gradient,) = torch.autograd.grad(self.settings.sidl_weight * loss, images)
        self.fake.requires_grad_(True)
        return loss.item(), gradient

    def _labels(self, random: torch.Generator) -> Tensor | None:
        """Classes drawn uniformly, [B]; an unconditional teacher draws nothing."""
        classes = self.teacher.classes
        return torch.randint(classes, (self.batch_size,), generator=random).to(self.device) if classes else None

    def _noise_level(self, random: torch.Generator) -> Tensor:
        """sigma of a t uniform in {t_min..t_max}, the discrete DDPM recipe: [B]."""
        s = self.settings
        t = torch.randint(s.t_min, s.t_max + 1, (self.batch_size,), generator=random)
        return self.teacher.schedule.sigmas[t].float().to(self.device)

    def _normal(self, random: torch.Generator) -> Tensor:
        shape = (self.batch_size, *self.teacher.shape)
        return torch.randn(shape, generator=random).to(self.device)

    def _descend(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if self.settings.clip_grad:
            nn.utils.clip_grad_norm_(module.parameters(), self.settings.clip_grad)
        optimizer.step()

    def _autocast(self) -> AbstractContextManager[object]:
        return autocast(self.device, self.settings.precision)

    def tensors(self) -> dict[str, Tensor]:
        """Everything but the teacher."""
        return {
            **module_tensors("generator", self.generator),
            **module_tensors("average", self.average),
            **module_tensors("fake", self.fake),
            **optimizer_tensors("generator_adam", self.generator_adam),
            **optimizer_tensors("fake_adam", self.fake_adam),
            "norms": self.isometric.norms,
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave."""
        load_module("generator", self.generator, tensors)
        load_module("average", self.average, tensors)
        load_module("fake", self.fake, tensors)
        load_optimizer("generator_adam", self.generator_adam, tensors)
        load_optimizer("fake_adam", self.fake_adam, tensors)
        self.isometric.norms = tensors["norms"]


def _column(sigma: Tensor) -> Tensor:
    return sigma.reshape(-1, 1, 1, 1)
