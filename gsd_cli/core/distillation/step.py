"""Geometric Score Distillation: the training step.

fake score       learns to denoise the generator's images (`fake_score`)
discriminator    learns to tell them from real images (`adversarial_term`)
generator        follows the gradient of its loss at its images, in one backward pass:
                 eq. 3 of the paper, lambda_SIDL L_SIDL + lambda_IRL L_IRL, and two terms of real images
    L_SIDL       eq. 2: score identity distillation (`score_identity_term`)
    adversarial  the discriminator's judgement (`adversarial_term`)
    matching     mean features of real images (`feature_matching`)
    L_IRL        eq. 1: isometry between latents and images (`isometric_term`, `isometric_forms`)
average          follows the generator (EMA)
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gsd_cli.base.launcher import require_others
from gsd_cli.compute.device import (
    adam,
    autocast,
    compile_network,
    full_precision,
    lower_norms,
    set_rate,
    to_device,
)
from gsd_cli.compute.distributed import World, require_even_shares
from gsd_cli.compute.graphs import recorder_for
from gsd_cli.compute.random import generator_for
from gsd_cli.core.distillation.adversarial_term import AdversarialTerm
from gsd_cli.core.distillation.draws import make_draws
from gsd_cli.core.distillation.fake_score import FakeScore
from gsd_cli.core.distillation.feature_matching import FeatureMatching
from gsd_cli.core.distillation.fit_sources import FitSources
from gsd_cli.core.distillation.growth import grow
from gsd_cli.core.distillation.guidance import build_guidance
from gsd_cli.core.distillation.isometric_term import IsometricTerm
from gsd_cli.core.distillation.latent_pairs import LatentBatch, row_order
from gsd_cli.core.distillation.micro_batches import micro_batches
from gsd_cli.core.distillation.noise_levels import build_recipe
from gsd_cli.core.distillation.placement import WholeAverage, birthplace, calls_float32, place, place_teacher
from gsd_cli.core.distillation.real_images import RealImages
from gsd_cli.core.distillation.recorded_steps import RecordedSteps
from gsd_cli.core.distillation.score_identity_term import ScoreIdentityTerm
from gsd_cli.core.distillation.taped_draws import TapedDraws
from gsd_cli.core.models.adapters import adapt, copy_trained
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.feature_maps import FeatureMap, teacher_features
from gsd_cli.core.models.few_steps import spread_levels
from gsd_cli.core.models.generator import Generator, set_dropout, without_dropout
from gsd_cli.core.training.averaging import ema_decay, update_average
from gsd_cli.core.training.checkpoint import load_module, load_optimizer, module_tensors, optimizer_tensors
from gsd_cli.core.training.descent import descend, trapezoid
from gsd_cli.options import DistillSettings

Metrics = dict[str, float | Tensor]
"""The figures of one step: numbers, or tensors of no dimensions that are still being computed."""
Evaluate = Callable[[Generator, int], dict[str, float]]


@dataclass(frozen=True)
class Batch:
    """The latents of one generator step, their condition, and the generator's images of them [B + M, C, H, W].

    The images carry their graph, unless micro-batches will make it again part by part.
    """

    latents: LatentBatch
    condition: Condition
    images: Tensor


def can_be_recorded(settings: DistillSettings, world: World) -> bool:
    """Whether steps may run as CUDA graphs: `--cuda-graphs`, and nothing that a recording does not repeat."""
    s = settings
    return s.cuda_graphs and not (world.size > 1 or s.recompute or s.compile or s.dropout)


class Distillation:
    """Teacher f (frozen), fake score g, generator G and its moving average.

    With several processes each works on its rows of the batch. A row's noise depends on its number alone, and gradients
    are averaged, so N processes train as one does. `settings.batch_size` is the batch of all of them together. `data`:
    real images for the discriminator; `pixels`: whether the teacher works on images rather than an autoencoder's
    latents; `phi`: the feature map of the isometric term, default the teacher's; `start`: the generator that it starts
    as, default the teacher called as `settings` say. Of a start with a second network that one is trained, and the
    first stays. `begun`: whether a step was made. In bf16 `teacher` itself is kept, and moved (`place_teacher`).
    """

    def __init__(
        self, teacher: Denoiser, settings: DistillSettings, total_steps: int, device: torch.device, evaluate: Evaluate,
        phi: FeatureMap | None = None, world: World | None = None, data: RealImages | None = None, pixels: bool = True,
        start: Generator | None = None,
    ):  # fmt: skip
        s, world = settings, world or World()
        require_even_shares(s.batch_size, world)
        if s.shard:
            require_others("--shard")
        self.settings, self.device, self.world, self.data, self.total = s, device, world, data, total_steps
        self.batch_size, self._evaluate = s.batch_size, evaluate
        self.teacher, f = place_teacher(teacher, s, device)
        phi = phi or (lambda images: teacher_features(self.teacher, images))
        self.isometric = IsometricTerm(s, phi, total_steps, world, device)
        rows = row_order(s.batch_size, s.pair_every, world, self.isometric.group)
        draws = make_draws(s.noise_device, s.seed, s.batch_size, rows, teacher.shape, teacher.conditions, device)
        recorder = recorder_for(device) if can_be_recorded(s, world) else None
        if recorder is not None:
            draws = taped = TapedDraws(draws)
        self.draws, self.recipe = draws, build_recipe(s, teacher.schedule, pixels=pixels)
        guidance = build_guidance(s, teacher, device)
        self.fake_score = FakeScore(s, self.teacher, f, guidance, draws, self.recipe, world)
        self.generator = self._build_generator(teacher, start, f).train()
        self.average = copy_trained(self.generator).eval().requires_grad_(False)
        self._whole_average = WholeAverage(self.average, s, device, self.teacher, f)
        # after the copies, which are of whole networks; in fp32 f is the teacher
        for network in dict.fromkeys((self.teacher, f, *self.generator.networks, *self.average.networks)):
            place(network, s, device)
        self.score_identity = ScoreIdentityTerm(s, f, self.fake_score, guidance, draws, self.recipe, world)
        self.adversarial = AdversarialTerm(s, f, data, draws, self.recipe, world)
        self.matching = FeatureMatching(s, f, data, draws, total_steps * s.batch_size, world)
        self.generator_adam = adam(self.generator, s.lr, (s.beta1, s.beta2), device)
        self._shared_generator = world.share(self.generator)
        self._share_of_average = torch.zeros((), device=device)
        self.begun = False
        self.recorded = None
        if recorder is not None and self.adversarial.resident:
            self.recorded = RecordedSteps(recorder, taped)
        for model in (f, self.fake_score.network, *self.generator.networks):
            lower_norms(model.net, device)
            if s.recompute:
                model.net.enable_gradient_checkpointing()
            if s.compile:
                compile_network(model.net)

    def _build_generator(self, teacher: Denoiser, start: Generator | None, f: Denoiser) -> Generator:
        """The generator as it starts: a copy of `start` or the teacher, or of one grown from it, or adapters on the
        teacher's weights."""
        s, (rank, _) = self.settings, self.settings.adapter_ranks()
        sigmas = spread_levels(s.sigma_init, s.student_steps)
        if start is not None and start.later is not None:
            first = to_device(copy.deepcopy(start.denoiser), self.device).requires_grad_(False)
            second = to_device(copy.deepcopy(start.later), self.device).requires_grad_(True)
            set_dropout(first, 0.0)
            set_dropout(second, s.dropout)
            return Generator(first, start.sigmas, later=second)
        if rank:
            base = self.teacher if calls_float32(s, s.precision) else f
            adapted = adapt(self.teacher, rank, s.seed, "generator", base)
            set_dropout(adapted, s.dropout)
            return Generator(adapted, sigmas)
        student = grow(start.denoiser if start else teacher, s.student_width, s.student_depth, s.seed)
        return to_device(Generator.from_teacher(student, sigmas, s.dropout), birthplace(s, self.device))

    def set_length(self, total: int) -> None:
        """Set the run's length in steps: the decay of the learning rate and the isometric term's start depend on it."""
        self.total = self.isometric.total = total

    @property
    def rehearsing(self) -> bool:
        """Whether the last step was slower than most will be, because it prepared a recording."""
        return self.recorded is not None and self.recorded.rehearsing

    @property
    def notes(self) -> list[str]:
        """News for the user, which the loop prints and clears."""
        return [] if self.recorded is None else self.recorded.notes

    def evaluate(self, step: int) -> dict[str, float]:
        """Measure the moving average."""
        return self._evaluate(self.whole_average(), step)

    @property
    def sharded(self) -> bool:
        """Whether the networks are cut into pieces over the processes, which then save and export together."""
        return self.settings.shard

    def whole_average(self) -> Generator:
        """The moving average with whole weights. If it is sharded, all processes must call this together, unless
        `evaluate` was called after the last step."""
        return self._whole_average.get()

    # -- the step -----------------------------------------------------------------------------------

    def step(self, step: int) -> Metrics:
        """One training step: the fake score's updates, the discriminator's, the generator's.

        The metrics stay on the device, and nothing here waits for it. Once an update is not finite, no network changes
        for the rest of the step: `skipped` is 1.
        """
        self._begin(step)
        self.begun = True
        self._whole_average.forget()
        if self.recorded is None:
            return self._update_all(step)
        variant = (
            self.generator_waits(step), self.isometric.due(step), self.isometric.strength(step) > 0,
            self.adversarial.begun(step),
        )  # fmt: skip
        return self.recorded.run(step, variant, self._update_all)

    def generator_waits(self, step: int) -> bool:
        """Whether only the fake score and the discriminator learn in this step."""
        return (step + 1) * self.batch_size <= 1000 * (self.settings.fake_warmup or 0.0)

    def _update_all(self, step: int) -> Metrics:
        """All updates of a step. What depends on its number otherwise than through `draws` is set by `_begin`, in
        tensors, or makes it another variant."""
        metrics: Metrics = {}
        skip = torch.zeros((), device=self.device)
        batch = self._generate(step) if self.settings.reuse_images else None
        fake = None
        for k in range(self.fake_score.updates_per_step):
            fake = self._fake_images("fake", step, k, batch=batch)
            metrics["fake_loss"], skip = self.fake_score.update(*fake, skip, "fake", step, k)
        for k in range(self.adversarial.updates_per_step):
            fake = fake or self._fake_images("fake", step, k, batch=batch)
            of_discriminator, skip = self.adversarial.update(*fake, skip, "discriminator", step, k)
            metrics |= of_discriminator
        if self.generator_waits(step):
            return {**metrics, "skipped": skip}
        of_generator, skip = self._update_generator(batch or self._generate(step), step, skip)
        update_average(self.average, self.generator, self._share_of_average, skip)
        return {**metrics, **of_generator, "skipped": skip}

    def _update_generator(self, batch: Batch, step: int, skip: Tensor) -> tuple[Metrics, Tensor]:
        """One update of the generator; skip: 1 keeps the weights. Returns its metrics, and 1 if it was not finite or
        skipped, else 0."""
        metrics, gradient = self._loss_gradient(batch, step)
        self.generator_adam.zero_grad(set_to_none=True)
        self._backward(batch, gradient)
        # the gradients are averaged over the processes: if one is not finite, all skip
        clip = self.settings.clip_grad or None
        return metrics, descend(self.generator, self.generator_adam, clip=clip, skip=skip).skipped

    def _loss_gradient(self, batch: Batch, step: int) -> tuple[Metrics, Tensor]:
        """The gradient of the generator's loss at its images [B + M, C, H, W]: of all terms, each with its weight."""
        latents, images = batch.latents, batch.images.detach()
        count = len(latents.z)
        y, condition = images[:count], batch.condition.rows(slice(count))

        sidl = self.score_identity.measure(y, condition, step)
        adversarial = self.adversarial.measure(y, condition, step)
        matching = self.matching.measure(y, step)
        sidl_norm, adversarial_norm, matching_norm = self._norms(sidl.gradient, adversarial.gradient, matching)
        adversarial_weight, of_adversarial = self.adversarial.weigh(adversarial, adversarial_norm, sidl_norm)
        matching_weight, of_matching = self.matching.weigh(matching_norm, sidl_norm)
        rest = sidl.gradient + adversarial_weight * adversarial.gradient + matching_weight * matching
        rest = torch.cat([rest, torch.zeros_like(images[count:])])

        irl = self.isometric.measure(images, latents, batch.condition)
        irl = self.isometric.restrict(irl, latents, batch.condition, self.generator)
        # the ratio refers to the sum of all other terms, or the isometric share would fall as terms are added
        irl_norm, rest_norm = self._norms(irl.gradient, rest)
        irl_weight, of_irl = self.isometric.weigh(irl, irl_norm, rest_norm, step)
        metrics = {"sidl_loss": sidl.loss, "sidl_norm": sidl_norm, **of_adversarial, **of_matching, **of_irl}
        return metrics, rest + irl_weight * irl.gradient

    def _norms(self, *gradients: Tensor) -> Tensor:
        """The norm of each gradient at the images of all processes, averaged over these as a backward pass does."""
        return self.world.sum(torch.stack([g.square().sum() for g in gradients])).sqrt() / self.world.size

    def _begin(self, step: int) -> None:
        """Set the step's rates and strengths, and seed dropout masks, which come from torch's global generator."""
        s, seen = self.settings, (step + 1) * self.batch_size
        if s.dropout:
            torch.manual_seed(generator_for(s.seed, "dropout", step, self.world.rank).initial_seed())
        warmup = s.warmup_factor(seen)
        decay = trapezoid(step, self.total, 0, s.lr_decay)
        set_rate(self.generator_adam, warmup * decay * s.lr)
        set_rate(self.fake_score.adam, warmup * self.fake_score.lr)
        self.isometric.begin(step)
        self._share_of_average.fill_(1 - ema_decay(self.batch_size, seen, s.ema_half_life, s.ema_ramp))

    # -- the generator's images ---------------------------------------------------------------------

    def _fake_images(self, *stream: int | str, batch: Batch | None) -> tuple[Tensor, Condition]:
        """Images [B, C, H, W] for the fake score and the discriminator, without a graph, and their condition: that of
        `batch`, or a fresh one."""
        if batch is not None:
            count = len(batch.latents.z)
            return batch.images[:count].detach(), batch.condition.rows(slice(count))
        z, condition = self.draws.normal(*stream, "z"), self.draws.condition(*stream)
        parts = micro_batches(self.settings.micro_batch, len(z))
        with torch.no_grad(), self._autocast(), without_dropout(self.generator, self.settings.dropout):
            images = [self.generator(z[part], condition.rows(part)).float() for part, _ in parts]
        return torch.cat(images), condition

    def _generate(self, step: int) -> Batch:
        """The latents and images of the generator's update in this step."""
        shape, conditions = self.teacher.shape, self.teacher.conditions
        # the average is less noisy than the generator
        sources = FitSources(self.isometric.phi, self.average, shape, conditions, self.device, self.data)
        self.isometric.prepare(step, sources)
        latents = self.isometric.make_pairs(self.draws.normal("generator", step, "z"), self.draws, step)
        condition = self.isometric.share_condition(self.draws.condition("generator", step), latents)
        with torch.set_grad_enabled(self.settings.micro_batch is None):
            images = [self._call_generator(latents, condition, part) for part, _ in self._parts(latents)]
        return Batch(latents, condition, torch.cat(images))

    def _backward(self, batch: Batch, gradient: Tensor) -> None:
        """From the gradient at the images [B + M, C, H, W] to the generator's weights."""
        latents = batch.latents
        with full_precision(self.device) if len(latents.extra) else nullcontext():
            if batch.images.requires_grad:
                batch.images.backward(gradient)
                return
            for part, last in self._parts(latents):
                with nullcontext() if last else self.world.without_sync(self._shared_generator):
                    self._call_generator(latents, batch.condition, part).backward(gradient[part])

    def _call_generator(self, latents: LatentBatch, condition: Condition, part: slice) -> Tensor:
        """Images of some rows of the batch and, after it, the isometric term's extra latents."""
        z, own = torch.cat([latents.z, latents.extra])[part], condition.rows(part)
        if part.stop <= len(latents.z):
            with self._autocast():
                return self._shared_generator(z, own).float()
        # extra images are subtracted from each other: low precision would leave noise
        with full_precision(self.device):
            return self._shared_generator(z, own)

    def _parts(self, latents: LatentBatch) -> list[tuple[slice, bool]]:
        return micro_batches(self.settings.micro_batch, len(latents.z), len(latents.extra))

    def _autocast(self) -> AbstractContextManager[object]:
        return autocast(self.device, self.settings.precision)

    # -- checkpoints --------------------------------------------------------------------------------

    def tensors(self) -> dict[str, Tensor]:
        """The state to save: everything but the teacher, and the first network of a start that has two."""
        return {
            **module_tensors("generator", _trained_part(self.generator)),
            **module_tensors("average", _trained_part(self.average)),
            **optimizer_tensors("generator_adam", self.generator_adam),
            **self.fake_score.tensors(),
            **self.adversarial.tensors(),
            **self.matching.tensors(),
            **self.isometric.tensors(),
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave."""
        load_module("generator", _trained_part(self.generator), tensors)
        load_module("average", _trained_part(self.average), tensors)
        load_optimizer("generator_adam", self.generator_adam, tensors)
        self.fake_score.load(tensors)
        self.adversarial.load(tensors)
        self.matching.load(tensors)
        self.isometric.load(tensors, self.device)


def _trained_part(generator: Generator) -> nn.Module:
    """What of a generator is trained: its second network, if it has one, or all."""
    return generator if generator.later is None else generator.later
