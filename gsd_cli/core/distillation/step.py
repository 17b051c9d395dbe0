"""Geometric Score Distillation: the training step.

Score identity Distillation (Zhou et al., ICML 2024), a discriminator of real images, their mean features, and an
isometric term, weighed against each other where they meet: at the generator's images.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gsd_cli.compute.device import adam, autocast, cast_for_autocast, compile_network, full_precision, to_device
from gsd_cli.compute.distributed import World, require_even_shares
from gsd_cli.compute.random import generator_for
from gsd_cli.core.distillation.adversarial_term import AdversarialTerm
from gsd_cli.core.distillation.draws import make_draws
from gsd_cli.core.distillation.fake_score import build_fake_score
from gsd_cli.core.distillation.feature_matching import FeatureMatching
from gsd_cli.core.distillation.growth import grow
from gsd_cli.core.distillation.isometric_term import IsometricTerm, Latents, Measured, arranged
from gsd_cli.core.distillation.losses import fake_score_loss, score_identity_loss
from gsd_cli.core.distillation.manifold_gradient import along_manifold
from gsd_cli.core.distillation.noise_levels import build_recipe
from gsd_cli.core.distillation.norm_ratio import TINY
from gsd_cli.core.distillation.real_images import RealImages
from gsd_cli.core.distillation.target_layout import Sources
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.feature_maps import Phi, teacher_features
from gsd_cli.core.models.generator import Generator, set_dropout, without_dropout
from gsd_cli.core.training.checkpoint import load_module, load_optimizer, module_tensors, optimizer_tensors
from gsd_cli.core.training.descent import descend
from gsd_cli.core.training.loop import ema_decay, trapezoid, update_average
from gsd_cli.options import DistillSettings

Metrics = dict[str, float | Tensor]
"""The figures of one step: numbers, or tensors of no dimensions that are still being computed."""
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
    batch of all of them together. `data`: real images for the discriminator; `pixels`: whether the
    teacher works on images rather than an autoencoder's latents.
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
        data: RealImages | None = None,
        pixels: bool = True,
    ):
        world = world or World()
        require_even_shares(settings.batch_size, world)
        self.settings, self.device, self.world, self.total = settings, device, world, total_steps
        self.batch_size = settings.batch_size
        self.recipe = build_recipe(settings, teacher.schedule, pixels=pixels)
        self.fake_score = build_fake_score(settings, teacher, self.recipe)
        self.teacher = to_device(copy.deepcopy(teacher), device).eval().requires_grad_(False)
        self._cast_teacher = cast_for_autocast(self.teacher, settings.precision)
        phi = phi or (lambda images: teacher_features(self.teacher, images))
        self.isometric = IsometricTerm(settings, phi, total_steps, world, device)
        self.data = data
        rows = arranged(settings.batch_size, settings.pair_every, world, self.isometric.group)
        self.draws = make_draws(
            settings.noise_device, settings.seed, settings.batch_size, rows, teacher.shape, teacher.classes, device
        )
        self.adversarial = AdversarialTerm(settings, self._cast_teacher, data, self.draws, self.recipe, world)
        self.matching = FeatureMatching(
            settings, self._cast_teacher, data, self.draws, total_steps * settings.batch_size, world
        )
        grown = grow(teacher, settings.student_width, settings.student_depth, settings.seed)
        student = Generator.from_teacher(grown, settings.sigma_init, settings.dropout)
        self.generator = to_device(student, device).train()
        self.fake = to_device(copy.deepcopy(teacher), device).train().requires_grad_(True)
        set_dropout(self.fake, settings.dropout)
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        s = settings
        fake_betas = (_first(s.fake_beta1, s.beta1), _first(s.fake_beta2, s.beta2))
        self.generator_adam = adam(self.generator, s.lr, (s.beta1, s.beta2), device)
        self.fake_adam = adam(self.fake, _first(s.fake_lr, s.lr), fake_betas, device)
        if settings.recompute:
            for model in (self._cast_teacher, self.fake, self.generator.denoiser):
                model.net.enable_gradient_checkpointing()
        if settings.compile:
            for model in (self._cast_teacher, self.fake, self.generator.denoiser):
                compile_network(model.net)
        self._shared_generator, self._shared_fake = world.share(self.generator), world.share(self.fake)
        self._clip = settings.clip_grad or None
        self._evaluate = evaluate

    def set_length(self, total: int) -> None:
        """The run's length in steps, from here on: the learning rate falls towards it, the isometric term begins."""
        self.total = self.isometric.total = total

    def step(self, step: int) -> Metrics:
        """One round: the fake score learns the generator's images, the discriminator tells them from real ones,
        then the generator moves.

        The metrics stay on the device, and nothing here waits for it. Once a number is not finite, no network moves
        for the rest of the round: `skipped` is 1.
        """
        s = self.settings
        if s.dropout:  # its masks come from torch's global generator
            torch.manual_seed(generator_for(s.seed, "dropout", step, self.world.rank).initial_seed())
        rise = min(1.0, (step + 1) * self.batch_size / (1000 * s.warmup)) if s.warmup else 1.0
        fall = trapezoid(step, self.total, 0, s.lr_decay)
        self.generator_adam.param_groups[0]["lr"] = rise * fall * s.lr
        self.fake_adam.param_groups[0]["lr"] = rise * _first(s.fake_lr, s.lr)
        batch = self._generate(step) if s.reuse_images else None
        metrics, bad = self._learn(step, batch)
        found, bad = self._generator_step(step, bad, batch)
        beta = ema_decay(self.batch_size, (step + 1) * self.batch_size, s.ema_half_life, s.ema_ramp)
        update_average(self.average, self.generator, beta, bad)
        return {**metrics, **found, "skipped": bad}

    def _learn(self, step: int, batch: Batch | None) -> tuple[Metrics, Tensor]:
        """The updates of the fake score and of the discriminator, on the same images; fresh ones for each
        update of the fake score unless `batch` is reused. With it: 1 if one was not finite, else 0."""
        s, images, labels = self.settings, None, None
        metrics: Metrics = {}
        bad = torch.zeros((), device=self.device)
        for k in range(s.fake_steps if s.sidl_weight else 0):  # without the distillation nothing asks the fake score
            images, labels = self._shown("fake", step, k, batch=batch)
            metrics["fake_loss"], bad = self._fake_step(images, labels, bad, "fake", step, k)
        for k in range(s.discriminator_steps if self.adversarial.on else 0):
            if images is None:
                images, labels = self._shown("fake", step, k, batch=batch)
            found, bad = self.adversarial.learn(images, labels, bad, "discriminator", step, k)
            metrics |= found
        return metrics, bad

    def _shown(self, *stream: int | str, batch: Batch | None) -> tuple[Tensor, Tensor | None]:
        """The generator's images [B, C, H, W], without their graph, and their classes: those of `batch`, or fresh."""
        if batch is not None:
            count = len(batch.latents.z)
            return batch.images[:count].detach(), _rows(batch.labels, slice(count))
        z, labels = self.draws.normal(*stream, "z"), self.draws.labels(*stream)
        with torch.no_grad(), self._autocast(), without_dropout(self.generator, self.settings.dropout):
            parts = [self.generator(z[part], _rows(labels, part)).float() for part, _ in self._parts(len(z))]
        return torch.cat(parts), labels

    def evaluate(self, step: int) -> dict[str, float]:
        """Measure the moving average."""
        return self._evaluate(self.average, step)

    def _fake_step(
        self, images: Tensor, labels: Tensor | None, bad: Tensor, *stream: int | str
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """One update of the fake score on the generator's images [B, C, H, W], unless `bad` is 1: its loss, and 1
        where the update was not finite, or `bad`."""
        noise, sigma = self.draws.normal(*stream, "noise"), self.draws.sigma(self.recipe.fake_sigma, *stream)
        self.fake_adam.zero_grad(set_to_none=True)
        total = images.new_zeros(())
        for part, last in self._parts(len(images)):
            y, own = images[part], _rows(labels, part)
            x = y + _column(sigma[part]) * noise[part]
            with nullcontext() if last else self.world.without_sync(self._shared_fake):
                with self._autocast():
                    g = self._shared_fake(x, sigma[part], own).float()
                    if self.fake_score.share:
                        with torch.no_grad():
                            f = self._cast_teacher(x, sigma[part], own).float()
                        g = self.fake_score.estimate(f, g, sigma[part])
                losses = fake_score_loss(y, g, self.fake_score.weight(sigma[part]))
                (losses.sum() / len(images)).backward()
            total = total + losses.detach().sum() / len(images)
        loss = self.world.sum(total) / self.world.size
        return loss, descend(self.fake, self.fake_adam, loss, clip=self._clip, skip=bad).skipped

    def _generate(self, step: int) -> Batch:
        """The images that the generator's step `step` is about."""
        self.isometric.prepare(step, self._sources)
        latents = self.isometric.place(self.draws.normal("generator", step, "z"), self.draws, step)
        labels = self.isometric.share_classes(self.draws.labels("generator", step), latents)
        with torch.set_grad_enabled(self.settings.micro_batch is None):
            parts = self._parts(len(latents.z), len(latents.extra))
            return Batch(latents, labels, torch.cat([self._images(latents, labels, part) for part, _ in parts]))

    @property
    def _sources(self) -> Sources:
        """What a form of the isometric term may be fitted to: the average has less noise than the generator."""
        shape, classes = self.teacher.shape, self.teacher.classes
        return Sources(self.isometric.phi, self.average, shape, classes, self.device, self.data)

    def _generator_step(self, step: int, bad: Tensor, batch: Batch | None = None) -> tuple[Metrics, Tensor]:
        """One update of the generator, unless `bad` is 1; with it 1 where it was not finite, or `bad`."""
        batch = batch or self._generate(step)
        latents, y = batch.latents, batch.images
        # the terms meet at the images: their gradients there can be measured, weighed and added before one
        # backward pass through the generator
        images = y.detach()
        own, labels = images[: len(latents.z)], _rows(batch.labels, slice(len(latents.z)))
        metrics, sidl_grad = self._sidl(own, labels, step)
        felt = self.adversarial.measure(own, labels, step)
        matched = self.matching.measure(own, step)
        sidl_norm, felt_norm, matched_norm = self._norms(sidl_grad, felt.gradient, matched)
        felt_weight, of_felt = self.adversarial.weigh(sidl_norm, felt, felt_norm)
        matched_weight, of_matched = self.matching.weigh(sidl_norm, matched_norm)
        metrics |= {"sidl_norm": sidl_norm, **of_felt, **of_matched}
        rest = sidl_grad + felt_weight * felt.gradient + matched_weight * matched
        rest = torch.cat([rest, torch.zeros_like(images[len(latents.z) :])])
        irl = self._bounded(self.isometric.measure(images, latents, batch.labels), batch)
        # the isometric ratio refers to everything else, or its share would fall where others join
        rest_norm, irl_norm = self._norms(rest, irl.gradient)
        weight = self.isometric.weigh(rest_norm, irl_norm, step)
        if self.isometric.due(step):
            metrics |= {"irl_loss": irl.loss, "irl_norm": irl_norm, "irl_weight": weight}
            metrics |= {"speed_spread": irl.speed_spread}
            if self.settings.sidl_weight:
                metrics["irl_ratio"] = weight * irl_norm / rest_norm.clamp(min=TINY)
        gradient = rest + weight * irl.gradient
        self.generator_adam.zero_grad(set_to_none=True)
        self._pull_back(batch, gradient)
        # averaged over the processes, one that is not finite is so in all
        return metrics, descend(self.generator, self.generator_adam, clip=self._clip, skip=bad).skipped

    def _norms(self, *gradients: Tensor) -> Tensor:
        """The norm of each gradient at the images of all processes, averaged over these as a backward pass does."""
        return self.world.sum(torch.stack([g.square().sum() for g in gradients])).sqrt() / self.world.size

    def _bounded(self, irl: Measured, batch: Batch) -> Measured:
        """The isometric gradient as it may act: anywhere, or along the generator's own pictures."""
        if self.settings.irl_gradient == "free" or not batch.latents.pairs:
            return irl
        places = self.isometric.places(batch.latents)
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

    def _sidl(self, images: Tensor, labels: Tensor | None, step: int) -> tuple[Metrics, Tensor]:
        """Score identity distillation's loss and its weighted gradient at the images [B, ...]."""
        if self.settings.sidl_weight == 0:
            return {"sidl_loss": images.new_zeros(())}, torch.zeros_like(images)
        sigma = self.draws.sigma(self.recipe.generator_sigma, "generator", step)
        noise, total, gradients = self.draws.normal("judge", step), images.new_zeros(()), []
        self.fake.requires_grad_(False)
        for part, _ in self._parts(len(images)):
            y, own = images[part].clone().requires_grad_(True), _rows(labels, part)
            x = y + _column(sigma[part]) * noise[part]
            # a fake score with dropout would judge by another network at each call; recomputing is a call too
            with without_dropout(self.fake, self.settings.dropout):
                with self._autocast():
                    f, g = (model(x, sigma[part], own).float() for model in (self._cast_teacher, self.fake))
                g = self.fake_score.estimate(f, g, sigma[part])
                losses = score_identity_loss(y, f, g, self.settings.alpha)
                share = self.settings.sidl_weight * losses.sum() / len(images)
                gradients.append(torch.autograd.grad(share, y)[0])
            total = total + losses.detach().sum() / len(images)
        self.fake.requires_grad_(True)
        return {"sidl_loss": self.world.sum(total) / self.world.size}, torch.cat(gradients)

    def _parts(self, batch: int, extra: int = 0) -> list[tuple[slice, bool]]:
        """Rows that go through a network at a time, those of the batch apart from extra ones; the last is marked."""
        size = self.settings.micro_batch or max(batch, extra)
        slices = [slice(i, min(i + size, batch)) for i in range(0, batch, size)]
        slices += [slice(batch + i, batch + min(i + size, extra)) for i in range(0, extra, size)]
        return [(part, part is slices[-1]) for part in slices]

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
            **self.adversarial.tensors(),
            **self.matching.tensors(),
            **self.isometric.tensors(),
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave."""
        load_module("generator", self.generator, tensors)
        load_module("average", self.average, tensors)
        load_module("fake", self.fake, tensors)
        load_optimizer("generator_adam", self.generator_adam, tensors)
        load_optimizer("fake_adam", self.fake_adam, tensors)
        self.adversarial.load(tensors)
        self.matching.load(tensors)
        self.isometric.load(tensors, self.device)


def _column(sigma: Tensor) -> Tensor:
    return sigma.reshape(-1, 1, 1, 1)


def _rows(labels: Tensor | None, part: slice | Tensor) -> Tensor | None:
    return labels if labels is None else labels[part]


def _first(value: float | None, default: float) -> float:
    return default if value is None else value
