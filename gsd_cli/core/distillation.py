"""Geometric Score Distillation: the training step.

Score identity Distillation (Zhou et al., ICML 2024) plus an isometric term, weighed against each
other where they meet: at the generator's images.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gsd_cli.core.adversary import Adversary, Real, logits_of
from gsd_cli.core.checkpoint import load_module, load_optimizer, module_tensors, optimizer_tensors
from gsd_cli.core.denoiser import Denoiser
from gsd_cli.core.device import adam, autocast, full_precision, placed
from gsd_cli.core.draws import Draws
from gsd_cli.core.generator import Generator, set_dropout
from gsd_cli.core.isometric import IsometricTerm, Latents, Measured, arranged
from gsd_cli.core.losses import adversarial_loss, discriminator_loss, fake_score_loss, score_identity_loss
from gsd_cli.core.manifold import along_manifold
from gsd_cli.core.noise import generator_for
from gsd_cli.core.phi import Phi, teacher_features
from gsd_cli.core.recipes import build_recipe
from gsd_cli.core.target_layout import Sources
from gsd_cli.core.training import ema_decay, trapezoid, update_average
from gsd_cli.core.world import World, require_even_shares
from gsd_cli.data.archive import ImageArchive
from gsd_cli.errors import ExitCode, GsdError
from gsd_cli.options import DistillSettings

Evaluate = Callable[[Generator, int], dict[str, float]]


@dataclass(frozen=True)
class Batch:
    """One generator step's latents and classes, and the generator's images of both [B + M, ...].

    The images carry their graph, unless micro-batches are to make it again piece by piece.
    """

    latents: Latents
    labels: Tensor | None
    images: Tensor


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
        data: ImageArchive | None = None,
    ):
        world = world or World()
        _require_fit(teacher, settings, world)
        self.settings, self.device, self.world, self.total = settings, device, world, total_steps
        self.batch_size = settings.batch_size
        self.recipe = build_recipe(settings, teacher.schedule)
        self.teacher = placed(copy.deepcopy(teacher), device).eval().requires_grad_(False)
        phi = phi or (lambda images: teacher_features(self.teacher, images))
        self.isometric = IsometricTerm(settings, phi, total_steps, world)
        self.adversary, self.data = Adversary(settings.adversarial, data, teacher), data
        rows = arranged(settings.batch_size, settings.pair_every, world, self.isometric.group)
        self.draws = Draws(settings.seed, settings.batch_size, rows, teacher.shape, teacher.classes, device)
        student = Generator.from_teacher(teacher, settings.sigma_init, settings.dropout)
        self.generator = placed(student, device).train()
        self.fake = placed(copy.deepcopy(teacher), device).train().requires_grad_(True)
        set_dropout(self.fake, settings.dropout)
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        s = settings
        fake_betas = (_first(s.fake_beta1, s.beta1), _first(s.fake_beta2, s.beta2))
        self.generator_adam = adam(self.generator, s.lr, (s.beta1, s.beta2), device)
        self.fake_adam = adam(self.fake, _first(s.fake_lr, s.lr), fake_betas, device)
        if settings.recompute:
            for model in (self.teacher, self.fake, self.generator.denoiser):
                model.net.enable_gradient_checkpointing()
        if settings.compile:
            for model in (self.teacher, self.fake, self.generator.denoiser):
                model.net.compile()
        self._shared_generator, self._shared_fake = world.share(self.generator), world.share(self.fake)
        self._evaluate = evaluate

    def step(self, step: int) -> dict[str, float]:
        """One round: the fake score learns the generator's images, then the generator moves."""
        s = self.settings
        if s.dropout:  # its masks come from torch's global generator
            torch.manual_seed(generator_for(s.seed, "dropout", step, self.world.rank).initial_seed())
        rise = min(1.0, (step + 1) * self.batch_size / (1000 * s.warmup)) if s.warmup else 1.0
        fall = trapezoid(step, self.total, 0, s.lr_decay)
        self.generator_adam.param_groups[0]["lr"] = rise * fall * s.lr
        self.fake_adam.param_groups[0]["lr"] = rise * _first(s.fake_lr, s.lr)
        batch = self._generate(step) if s.reuse_images else None
        metrics: dict[str, float] = {}
        for k in range(s.fake_steps if s.sidl_weight else 0):  # without the distillation nothing asks the fake score
            metrics = self._fake_step("fake", step, k, batch=batch)
            if not math.isfinite(metrics["fake_loss"]):
                return metrics
        metrics |= self._generator_step(step, batch)
        if math.isfinite(metrics["sidl_loss"]) and math.isfinite(metrics.get("irl_loss", 0.0)):
            seen = (step + 1) * self.batch_size
            beta = ema_decay(self.batch_size, seen, s.ema_half_life, s.ema_ramp)
            update_average(self.average, self.generator, beta)
        return metrics

    def evaluate(self, step: int) -> dict[str, float]:
        """Measure the moving average."""
        return self._evaluate(self.average, step)

    def _fake_step(self, *stream: int | str, batch: Batch | None = None) -> dict[str, float]:
        """One update of the fake score, on fresh images of the generator or on those of `batch`."""
        draws = self.draws
        z, noise = draws.normal(*stream, "z"), draws.normal(*stream, "noise")
        sigma, labels = draws.sigma(self.recipe.fake_sigma, *stream), draws.labels(*stream)
        labels = labels if batch is None or labels is None or batch.labels is None else batch.labels[: len(z)]
        real = self.adversary.draw(draws, *stream)
        self.fake_adam.zero_grad(set_to_none=True)
        totals = torch.zeros(2, dtype=torch.float64)
        for part, last in self._parts(len(z)):
            own = _rows(labels, part)
            if batch is None:
                with torch.no_grad(), self._autocast():
                    y = self.generator(z[part], own).float()
            else:
                y = batch.images[part].detach()
            with nullcontext() if last else self.world.without_sync(self._shared_fake):
                seen = real and Real(real.images[part], _rows(real.labels, part))
                score, judgement = self._fake_losses(y, own, sigma[part], noise[part], seen)
                ((score + judgement).sum() / len(z)).backward()
            totals += torch.stack([score.detach().sum(), judgement.detach().sum()]).cpu() / len(z)
        loss, judged = (total / self.world.size for total in self.world.total(*totals.tolist()))
        if math.isfinite(loss + judged):
            self._descend(self.fake, self.fake_adam)
        return {"fake_loss": loss + judged} | ({"discriminator_loss": judged} if real else {})

    def _fake_losses(
        self, y: Tensor, labels: Tensor | None, sigma: Tensor, noise: Tensor, real: Real | None
    ) -> tuple[Tensor, Tensor]:
        """Losses of the fake score as a score and as a judge of real pictures, per image [B]."""
        images, count = y, len(y)
        if real is not None:  # one pass for both: a wrapped network may be called once a backward pass
            images, sigma, noise = torch.cat([y, real.images]), sigma.repeat(2), noise.repeat(2, 1, 1, 1)
            labels = None if labels is None or real.labels is None else torch.cat([labels, real.labels])
        with self._autocast(), logits_of(self.fake if real else None) as maps:
            g = self._shared_fake(images + _column(sigma) * noise, sigma, labels).float()
        score = fake_score_loss(y, g[:count], self.recipe.weight(sigma[:count]))
        if real is None:
            return score, torch.zeros_like(score)
        return score, discriminator_loss(maps[0][count:], maps[0][:count])

    def _generate(self, step: int) -> Batch:
        """The images that the generator's step `step` is about."""
        self.isometric.prepare(step, self._sources)
        latents = self.isometric.place(self.draws.normal("generator", step, "z"), step)
        labels = self.isometric.share_classes(self.draws.labels("generator", step), latents)
        with torch.set_grad_enabled(self.settings.micro_batch is None):
            parts = self._parts(len(latents.z), len(latents.extra))
            return Batch(latents, labels, torch.cat([self._images(latents, labels, part) for part, _ in parts]))

    @property
    def _sources(self) -> Sources:
        """What a form of the isometric term may be fitted to: the average has less noise than the generator."""
        shape, classes = self.teacher.shape, self.teacher.classes
        return Sources(self.isometric.phi, self.average, shape, classes, self.device, self.data)

    def _generator_step(self, step: int, batch: Batch | None = None) -> dict[str, float]:
        batch = batch or self._generate(step)
        latents, y = batch.latents, batch.images
        # the two terms meet at the images: their gradients there can be measured, weighed and
        # added before one backward pass through the generator
        images = y.detach()
        metrics, sidl_grad = self._sidl(images[: len(latents.z)], batch.labels, step)
        sidl_grad = torch.cat([sidl_grad, torch.zeros_like(images[len(latents.z) :])])
        irl = self._bounded(self.isometric.measure(images, latents, batch.labels), batch)
        squares = self.world.total(sidl_grad.square().sum().item(), irl.gradient.square().sum().item())
        sidl_norm, irl_norm = (math.sqrt(square) / self.world.size for square in squares)
        weight = self.isometric.weigh(sidl_norm, irl_norm, step)
        metrics["sidl_norm"] = sidl_norm
        if self.isometric.due(step):
            metrics |= {"irl_loss": irl.loss, "irl_norm": irl_norm, "irl_weight": weight}
            metrics |= {"speed_spread": irl.speed_spread}
            if self.settings.sidl_weight:
                metrics["irl_ratio"] = weight * irl_norm / max(sidl_norm, 1e-30)
        gradient = sidl_grad + weight * irl.gradient
        if self.world.any(not torch.isfinite(gradient).all()):
            return metrics | {"sidl_loss": math.nan}
        self.generator_adam.zero_grad(set_to_none=True)
        self._pull_back(batch, gradient)
        self._descend(self.generator, self.generator_adam)
        return metrics

    def _bounded(self, irl: Measured, batch: Batch) -> Measured:
        """The isometric gradient as it may act: anywhere, or along the generator's own pictures."""
        if self.settings.irl_gradient == "free" or not batch.latents.pairs:
            return irl
        places = self.isometric.places(batch.latents).to(self.device)
        z, labels = torch.cat([batch.latents.z, batch.latents.extra])[places], _rows(batch.labels, places)
        gradient = torch.zeros_like(irl.gradient)
        self.generator.eval()  # a dropout's masks would differ between the two calls compared
        with full_precision(self.device):
            along = along_manifold(
                self.generator, z, irl.gradient[places], labels, self.world, self.settings.micro_batch,
                scaled=self.isometric.held,
            )  # fmt: skip
        # gradients are averaged over the processes; scaled ones are of a loss that knows
        gradient[places] = along if self.isometric.held else along * self.world.size
        self.generator.train()
        return replace(irl, gradient=gradient)

    def _pull_back(self, batch: Batch, gradient: Tensor) -> None:
        """From the gradient at the images [B + M, ...] to the generator's parameters."""
        latents = batch.latents
        with full_precision(self.device) if len(latents.extra) else nullcontext():
            if batch.images.requires_grad:
                batch.images.backward(gradient)
                return
            for part, last in self._parts(len(latents.z), len(latents.extra)):
                with nullcontext() if last else self.world.without_sync(self._shared_generator):
                    self._images(latents, batch.labels, part).backward(gradient[part])

    def _images(self, latents: Latents, labels: Tensor | None, part: slice) -> Tensor:
        """Images of rows `part` of the batch and, after it, the isometric term's extra latents."""
        z, own = torch.cat([latents.z, latents.extra])[part], _rows(labels, part)
        if part.stop <= len(latents.z):
            with self._autocast():
                return self._shared_generator(z, own).float()
        # extra images are subtracted from each other: low precision would leave noise
        with full_precision(self.device):
            return self._shared_generator(z, own)

    def _sidl(self, images: Tensor, labels: Tensor | None, step: int) -> tuple[dict[str, float], Tensor]:
        """The distillation's losses, with the adversarial one, and their weighted gradient at the images [B, ...]."""
        if self.settings.sidl_weight == 0:
            return {"sidl_loss": 0.0}, torch.zeros_like(images)
        sigma = self.draws.sigma(self.recipe.generator_sigma, "generator", step)
        noise, judging = self.draws.normal("judge", step), self.adversary.weight
        totals, gradients = torch.zeros(2, dtype=torch.float64), []
        self.fake.requires_grad_(False)
        for part, _ in self._parts(len(images)):
            y, own = images[part].clone().requires_grad_(True), _rows(labels, part)
            x = y + _column(sigma[part]) * noise[part]
            with self._autocast(), logits_of(self.fake if judging else None) as maps:
                f, g = (model(x, sigma[part], own).float() for model in (self.teacher, self.fake))
            losses = score_identity_loss(y, f, g, self.settings.alpha)
            judged = adversarial_loss(maps[0], y, f) if judging else torch.zeros_like(losses)
            share = self.settings.sidl_weight * (losses + judging * judged).sum() / len(images)
            gradients.append(torch.autograd.grad(share, y)[0])
            totals += torch.stack([losses.detach().sum(), judged.detach().sum()]).cpu() / len(images)
        self.fake.requires_grad_(True)
        sidl, judged_mean = (total / self.world.size for total in self.world.total(*totals.tolist()))
        metrics = {"sidl_loss": sidl} | ({"adversarial_loss": judged_mean} if judging else {})
        return metrics, torch.cat(gradients)

    def _parts(self, batch: int, extra: int = 0) -> list[tuple[slice, bool]]:
        """Rows that go through a network at a time, those of the batch apart from extra ones; the last is marked."""
        size = self.settings.micro_batch or max(batch, extra)
        slices = [slice(i, min(i + size, batch)) for i in range(0, batch, size)]
        slices += [slice(batch + i, batch + min(i + size, extra)) for i in range(0, extra, size)]
        return [(part, part is slices[-1]) for part in slices]

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
            **self.isometric.tensors(),
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave."""
        load_module("generator", self.generator, tensors)
        load_module("average", self.average, tensors)
        load_module("fake", self.fake, tensors)
        load_optimizer("generator_adam", self.generator_adam, tensors)
        load_optimizer("fake_adam", self.fake_adam, tensors)
        self.isometric.load(tensors, self.device)


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


def _rows(labels: Tensor | None, part: slice | Tensor) -> Tensor | None:
    return labels if labels is None else labels[part]


def _first(value: float | None, default: float) -> float:
    return default if value is None else value
