"""Geometric Score Distillation: the training step.

Score identity Distillation (Zhou et al., ICML 2024) plus an isometric term, weighed against each
other where they meet: at the generator's images.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gsd_cli.core.checkpoint import load_module, load_optimizer, module_tensors, optimizer_tensors
from gsd_cli.core.denoiser import Denoiser
from gsd_cli.core.device import autocast
from gsd_cli.core.generator import Generator, set_dropout
from gsd_cli.core.losses import distance, fake_score_loss, score_identity_loss, speed_loss
from gsd_cli.core.noise import angle, generator_for, rotate
from gsd_cli.core.phi import teacher_features
from gsd_cli.core.training import ema_decay, update_average
from gsd_cli.errors import ExitCode, GsdError
from gsd_cli.options import DistillSettings

Phi = Callable[[Tensor], Tensor]
Evaluate = Callable[[Generator, int], dict[str, float]]

PAIR_SHARE = 4
"""One image in four gets a neighbour: pairs share the distillation loss's images, and too many
would leave it with few independent ones."""
NORM_MEMORY = 0.95
"""Per-step memory of the gradient norms that the automatic weight is computed from."""


@dataclass(frozen=True)
class Batch:
    """The latents of one generator step: the first `pairs` and the next `pairs` are neighbours.

    Neighbours share their class; labels: int64 [B], None without classes.
    """

    z: Tensor
    pairs: int
    labels: Tensor | None


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
        self.settings, self.device, self.total = settings, device, total_steps
        self.batch_size = settings.batch_size
        self.teacher = copy.deepcopy(teacher).to(device).eval().requires_grad_(False)
        self.phi: Phi = phi or (lambda images: teacher_features(self.teacher, images))
        self.generator = Generator.from_teacher(teacher, settings.sigma_init, settings.dropout).to(device).train()
        self.fake = copy.deepcopy(teacher).to(device).train().requires_grad_(True)
        set_dropout(self.fake, settings.dropout)
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        betas = (settings.beta1, settings.beta2)
        self.generator_adam = torch.optim.Adam(self.generator.parameters(), settings.lr, betas)
        self.fake_adam = torch.optim.Adam(self.fake.parameters(), settings.fake_lr or settings.lr, betas)
        # running norms of dL_SIDL/dy and dL_IRL/dy
        self.norms = torch.zeros(2, dtype=torch.float64)
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
        if math.isfinite(metrics["sidl_loss"]) and math.isfinite(metrics["irl_loss"]):
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
        batch = self._paired_latents(random)
        with self._autocast():
            y = self.generator(batch.z, batch.labels).float()
        # the two terms meet at the images: their gradients there can be measured, weighed and
        # added before one backward pass through the generator
        images = y.detach().requires_grad_(True)
        sidl, sidl_grad = self._sidl(images, batch.labels, random)
        irl, irl_grad, spread = self._irl(images, batch, step)
        weight = self._irl_weight(sidl_grad, irl_grad, step)
        metrics = {"sidl_loss": sidl, "irl_loss": irl, "irl_weight": weight, "speed_spread": spread}
        sidl_grad = self.settings.sidl_weight * sidl_grad
        gradient = sidl_grad + weight * irl_grad
        if torch.isfinite(gradient).all():
            self.generator_adam.zero_grad(set_to_none=True)
            y.backward(gradient)
            self._descend(self.generator, self.generator_adam)
        else:
            metrics["sidl_loss"] = math.nan
        if self.settings.sidl_weight:
            metrics["irl_ratio"] = (weight * irl_grad.norm() / sidl_grad.norm().clamp(min=1e-30)).item()
        return metrics

    def _sidl(self, images: Tensor, labels: Tensor | None, random: torch.Generator) -> tuple[float, Tensor]:
        """The distillation loss and its gradient at the images."""
        if self.settings.sidl_weight == 0:
            return 0.0, torch.zeros_like(images)
        sigma, noise = self._noise_level(random), self._normal(random)
        x = images + _column(sigma) * noise
        self.fake.requires_grad_(False)
        with self._autocast():
            f, g = (model.given(labels)(x, sigma).float() for model in (self.teacher, self.fake))
        loss = score_identity_loss(images, f, g, self.settings.alpha).mean()
        (gradient,) = torch.autograd.grad(loss, images)
        self.fake.requires_grad_(True)
        return loss.item(), gradient

    def _irl(self, images: Tensor, batch: Batch, step: int) -> tuple[float, Tensor, float]:
        """The isometric loss, its gradient at the images, and the speed's coefficient of variation."""
        if batch.pairs == 0 or self._irl_warmup(step) == 0:
            return 0.0, torch.zeros_like(images), 0.0
        p = batch.pairs
        features = self.phi(images[: 2 * p])
        theta = angle(batch.z[:p], batch.z[p : 2 * p])
        rho = distance(features[:p], features[p:])
        loss = speed_loss(rho, theta).mean()
        (gradient,) = torch.autograd.grad(loss, images)
        speed = (rho / theta).detach()
        return loss.item(), gradient, (speed.std(correction=0) / speed.mean()).item()

    def _irl_weight(self, sidl_grad: Tensor, irl_grad: Tensor, step: int) -> float:
        """`auto`: hold the ratio of the two gradient norms, smoothed, at the target, after a warm-up."""
        warmup = self._irl_warmup(step)
        if warmup == 0 or self.settings.irl == "off":
            return 0.0
        if self.settings.irl_weight != "auto":
            return warmup * float(self.settings.irl_weight)
        if self.settings.sidl_weight == 0:
            return warmup
        now = torch.stack([sidl_grad.norm(), irl_grad.norm()]).double().cpu()
        if torch.isfinite(now).all():
            self.norms = NORM_MEMORY * self.norms + (1 - NORM_MEMORY) * now
        # both start at zero, so the bias of a short history cancels in the quotient
        sidl_norm, irl_norm = self.norms.tolist()
        scale = self.settings.sidl_weight * self.settings.irl_ratio
        return warmup * scale * sidl_norm / max(irl_norm, 1e-30)

    def _irl_warmup(self, step: int) -> float:
        """0 for the first tenth of the run, then linear to 1 at a fifth; 1 when there is no other term."""
        if self.settings.sidl_weight == 0:
            return 1.0
        return min(1.0, max(0.0, (step / max(self.total, 1) - 0.1) / 0.1))

    def _paired_latents(self, random: torch.Generator) -> Batch:
        z, labels = self._normal(random), self._labels(random)
        if self.settings.irl == "off":
            return Batch(z, 0, labels)
        pairs = max(1, self.batch_size // PAIR_SHARE) if self.batch_size > 1 else 0
        low, high = math.log(self.settings.tau_min), math.log(self.settings.tau_max)
        tau = (low + (high - low) * torch.rand(pairs, generator=random)).exp().to(self.device)
        neighbours = rotate(z[:pairs], z[pairs : 2 * pairs], tau)
        if labels is not None:
            labels[pairs : 2 * pairs] = labels[:pairs]
        return Batch(torch.cat([z[:pairs], neighbours, z[2 * pairs :]]), pairs, labels)

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
            "norms": self.norms,
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave."""
        load_module("generator", self.generator, tensors)
        load_module("average", self.average, tensors)
        load_module("fake", self.fake, tensors)
        load_optimizer("generator_adam", self.generator_adam, tensors)
        load_optimizer("fake_adam", self.fake_adam, tensors)
        self.norms = tensors["norms"]


def _column(sigma: Tensor) -> Tensor:
    return sigma.reshape(-1, 1, 1, 1)
