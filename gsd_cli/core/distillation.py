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
from gsd_cli.core.isometric import IsometricTerm, Latents, arranged
from gsd_cli.core.losses import fake_score_loss, score_identity_loss
from gsd_cli.core.noise import generator_for, normal_rows
from gsd_cli.core.phi import Phi, teacher_features
from gsd_cli.core.recipes import build_recipe
from gsd_cli.core.training import ema_decay, update_average
from gsd_cli.core.world import World, require_even_shares
from gsd_cli.errors import ExitCode, GsdError
from gsd_cli.options import DistillSettings

Evaluate = Callable[[Generator, int], dict[str, float]]


class Distillation:
    """Teacher f (frozen), fake score g, generator G and its moving average.

    With several processes each works on its rows of the batch; a row's noise depends on its number
    alone, and gradients are averaged, so N processes train as one does. `settings.batch_size` is the
    batch of all of them together.
    """

    def __init__(
        self,
        teacher: Denoiser,
        settings: DistillSettings,
        total_steps: int,
        device: torch.device,
        evaluate: Evaluate,
        phi: Phi | None = None,
        world: World | None = None,
    ):
        world = world or World()
        _require_fit(teacher, settings, world)
        self.settings, self.device, self.world = settings, device, world
        self.batch_size = settings.batch_size
        self.recipe = build_recipe(settings, teacher.schedule)
        self.teacher = copy.deepcopy(teacher).to(device).eval().requires_grad_(False)
        phi = phi or (lambda images: teacher_features(self.teacher, images))
        self.isometric = IsometricTerm(settings, phi, total_steps, world)
        self.rows = arranged(settings.batch_size, world)
        self.generator = Generator.from_teacher(teacher, settings.sigma_init, settings.dropout).to(device).train()
        self.fake = copy.deepcopy(teacher).to(device).train().requires_grad_(True)
        set_dropout(self.fake, settings.dropout)
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        s = settings
        fake_betas = (_first(s.fake_beta1, s.beta1), _first(s.fake_beta2, s.beta2))
        self.generator_adam = torch.optim.Adam(self.generator.parameters(), s.lr, (s.beta1, s.beta2))
        self.fake_adam = torch.optim.Adam(self.fake.parameters(), _first(s.fake_lr, s.lr), fake_betas)
        self._shared_generator, self._shared_fake = world.share(self.generator), world.share(self.fake)
        self._evaluate = evaluate

    def step(self, step: int) -> dict[str, float]:
        """One round: the fake score learns the generator's images, then the generator moves."""
        s = self.settings
        if s.dropout:  # its masks come from torch's global generator
            torch.manual_seed(generator_for(s.seed, "dropout", step, self.world.rank).initial_seed())
        rise = min(1.0, (step + 1) * self.batch_size / (1000 * s.warmup)) if s.warmup else 1.0
        self.generator_adam.param_groups[0]["lr"] = rise * s.lr
        self.fake_adam.param_groups[0]["lr"] = rise * _first(s.fake_lr, s.lr)
        for k in range(s.fake_steps):
            loss = self._fake_step("fake", step, k)
            if not math.isfinite(loss):
                return {"fake_loss": loss}
        metrics = {"fake_loss": loss, **self._generator_step(step)}
        if math.isfinite(metrics["sidl_loss"]) and math.isfinite(metrics.get("irl_loss", 0.0)):
            seen = (step + 1) * self.batch_size
            update_average(self.average, self.generator, ema_decay(self.batch_size, seen, s.ema_half_life))
        return metrics

    def evaluate(self, step: int) -> dict[str, float]:
        """Measure the moving average."""
        return self._evaluate(self.average, step)

    def _fake_step(self, *stream: int | str) -> float:
        """One update of the fake score on fresh images of the generator; its loss."""
        z, noise = self._normal(*stream, "z"), self._normal(*stream, "noise")
        sigma, labels = self._sigma(self.recipe.fake_sigma, *stream), self._labels(*stream)
        self.fake_adam.zero_grad(set_to_none=True)
        loss = 0.0
        for part, last in self._parts(len(z)):
            own = _rows(labels, part)
            with torch.no_grad(), self._autocast():
                y = self.generator(z[part], own).float()
            with nullcontext() if last else self.world.without_sync(self._shared_fake):
                with self._autocast():
                    g = self._shared_fake(y + _column(sigma[part]) * noise[part], sigma[part], own).float()
                share = fake_score_loss(y, g, self.recipe.weight(sigma[part])).sum() / len(z)
                share.backward()
            loss += share.item()
        loss = self.world.total(loss)[0] / self.world.size
        if math.isfinite(loss):
            self._descend(self.fake, self.fake_adam)
        return loss

    def _generator_step(self, step: int) -> dict[str, float]:
        latents = self.isometric.place(self._normal("generator", step, "z"), step)
        labels = self.isometric.share_classes(self._labels("generator", step), latents)
        parts = self._parts(len(latents.z), len(latents.extra))
        split = self.settings.micro_batch is not None
        with torch.set_grad_enabled(not split):
            y = torch.cat([self._images(latents, labels, part) for part, _ in parts])
        # the two terms meet at the images: their gradients there can be measured, weighed and
        # added before one backward pass through the generator
        images = y.detach()
        sidl, sidl_grad = self._sidl(images[: len(latents.z)], labels, step)
        sidl_grad = torch.cat([sidl_grad, torch.zeros_like(images[len(latents.z) :])])
        irl = self.isometric.measure(images, latents)
        squares = self.world.total(sidl_grad.square().sum().item(), irl.gradient.square().sum().item())
        sidl_norm, irl_norm = (math.sqrt(square) / self.world.size for square in squares)
        weight = self.isometric.weigh(sidl_norm, irl_norm, step)
        metrics = {"sidl_loss": sidl, "sidl_norm": sidl_norm}
        if self.isometric.due(step):
            metrics |= {"irl_loss": irl.loss, "irl_norm": irl_norm, "irl_weight": weight}
            metrics |= {"speed_spread": irl.speed_spread}
            if self.settings.sidl_weight:
                metrics["irl_ratio"] = weight * irl_norm / max(sidl_norm, 1e-30)
        gradient = sidl_grad + weight * irl.gradient
        if self.world.any(not torch.isfinite(gradient).all()):
            return metrics | {"sidl_loss": math.nan}
        self.generator_adam.zero_grad(set_to_none=True)
        with full_precision(self.device) if len(latents.extra) else nullcontext():
            if not split:
                y.backward(gradient)
            for part, last in parts if split else ():
                with nullcontext() if last else self.world.without_sync(self._shared_generator):
                    self._images(latents, labels, part).backward(gradient[part])
        self._descend(self.generator, self.generator_adam)
        return metrics

    def _images(self, latents: Latents, labels: Tensor | None, part: slice) -> Tensor:
        """Images of rows `part` of the batch and, after it, the isometric term's extra latents."""
        z, own = torch.cat([latents.z, latents.extra])[part], _rows(labels, part)
        if part.stop <= len(latents.z):
            with self._autocast():
                return self._shared_generator(z, own).float()
        # extra images are subtracted from each other: low precision would leave noise
        with full_precision(self.device):
            return self._shared_generator(z, own)

    def _sidl(self, images: Tensor, labels: Tensor | None, step: int) -> tuple[float, Tensor]:
        """The distillation loss, and its weighted gradient at the images [B, ...]."""
        if self.settings.sidl_weight == 0:
            return 0.0, torch.zeros_like(images)
        sigma, noise = self._sigma(self.recipe.generator_sigma, "generator", step), self._normal("judge", step)
        loss, gradients = 0.0, []
        self.fake.requires_grad_(False)
        for part, _ in self._parts(len(images)):
            y, own = images[part].clone().requires_grad_(True), _rows(labels, part)
            x = y + _column(sigma[part]) * noise[part]
            with self._autocast():
                f, g = (model(x, sigma[part], own).float() for model in (self.teacher, self.fake))
            share = score_identity_loss(y, f, g, self.settings.alpha).sum() / len(images)
            gradients.append(torch.autograd.grad(self.settings.sidl_weight * share, y)[0])
            loss += share.item()
        self.fake.requires_grad_(True)
        return self.world.total(loss)[0] / self.world.size, torch.cat(gradients)

    def _parts(self, batch: int, extra: int = 0) -> list[tuple[slice, bool]]:
        """Rows that go through a network at a time, those of the batch apart from extra ones; the last is marked."""
        size = self.settings.micro_batch or max(batch, extra)
        slices = [slice(i, min(i + size, batch)) for i in range(0, batch, size)]
        slices += [slice(batch + i, batch + min(i + size, extra)) for i in range(0, extra, size)]
        return [(part, part is slices[-1]) for part in slices]

    def _normal(self, *stream: int | str) -> Tensor:
        """N(0, I) for this process's rows, [B, *shape]."""
        return normal_rows(self.rows, self.teacher.shape, self.settings.seed, *stream).to(self.device)

    def _sigma(self, draw: Callable[[int, torch.Generator], Tensor], *stream: int | str) -> Tensor:
        """Noise levels for this process's rows, [B]."""
        random = generator_for(self.settings.seed, *stream, "sigma")
        return draw(self.batch_size, random)[self.rows].to(self.device)

    def _labels(self, *stream: int | str) -> Tensor | None:
        """Classes for this process's rows, drawn uniformly, int64 [B]; None for an unconditional teacher."""
        classes = self.teacher.classes
        if not classes:
            return None
        random = generator_for(self.settings.seed, *stream, "class")
        return torch.randint(classes, (self.batch_size,), generator=random)[self.rows].to(self.device)

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


def _require_fit(teacher: Denoiser, settings: DistillSettings, world: World) -> None:
    if settings.t_max >= teacher.schedule.steps:
        raise GsdError(
            f"the teacher has {teacher.schedule.steps} timesteps, the distillation draws up to {settings.t_max}",
            hint=f"give --t-max {round(0.793 * teacher.schedule.steps)}",
            code=ExitCode.USAGE,
        )
    require_even_shares(settings.batch_size, world)


def _column(sigma: Tensor) -> Tensor:
    return sigma.reshape(-1, 1, 1, 1)


def _rows(labels: Tensor | None, part: slice) -> Tensor | None:
    return labels if labels is None else labels[part]


def _first(value: float | None, default: float) -> float:
    return default if value is None else value
