"""Refinement distillation: a generator learns to do in one more call what several calls of its teacher do.

    x_1 .. x_k   the average's calls of a latent z, all but the new one
    x = x_k + s n_k(z),   y = R(x): K steps of the teacher's ODE from s to 0, as `core/sampling/refined.py` makes them

    L = mean (D(x, s) - y)^2 + sum over j of (s / s_j) mean (D(x'_j, s_j) - y'_j)^2,   y'_j = D_start(x'_j, s_j)

The first term is progressive distillation (Salimans and Ho, ICLR 2022) of the last piece of the ODE, for the images
that the exported network will see. From a low noise level there is little left to choose, so the mean square is
enough. The second keeps the start's calls, since one network makes all of them. A network that predicts noise errs in
proportion to the level, so without weights the first call, at the highest, would rule; weights of (s / s_j)^2, which
make the errors comparable, let it drift (docs/experiments.md).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from gsd_cli.compute.device import adam, autocast, cast_for_autocast, compile_network, lower_norms, set_rate, to_device
from gsd_cli.compute.distributed import World, require_even_shares
from gsd_cli.core.distillation.draws import make_draws
from gsd_cli.core.distillation.micro_batches import micro_batches
from gsd_cli.core.models.condition import Condition, concatenate
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.sampling.refined import RefinedGenerator, refining_levels
from gsd_cli.core.training.averaging import ema_decay, update_average
from gsd_cli.core.training.checkpoint import load_module, load_optimizer, module_tensors, optimizer_tensors
from gsd_cli.core.training.descent import descend, trapezoid
from gsd_cli.core.training.report import Metrics
from gsd_cli.options import DistillSettings

KEPT = 2
"""One image in KEPT also keeps the start's calls, which the network can do already."""


class RefinementDistillation:
    """A generator of one call more than `start`, and its moving average.

    start: the generator whose images are refined, frozen. teacher: refines them, frozen; with its guidance.
    settings.refine: the teacher's calls K. With several processes each works on its rows of the batch.
    """

    sharded = False

    def __init__(
        self, start: Generator, teacher: Denoiser, settings: DistillSettings, total_steps: int, device: torch.device,
        evaluate: Callable[[Generator, int], dict[str, float]], world: World | None = None, guidance: float = 1.0,
    ):  # fmt: skip
        s, self.world = settings, world or World()
        require_even_shares(s.batch_size, self.world)
        self.settings, self.device, self.total, self._evaluate = s, device, total_steps, evaluate
        self.batch_size, self.begun = s.batch_size, False
        network, teacher = (to_device(part, device).requires_grad_(False) for part in (start.denoiser, teacher))
        frozen, refining = (cast_for_autocast(part.eval(), s.precision) for part in (network, teacher))
        if guidance != 1:
            refining = refining.with_guidance(guidance)
        sigmas = (*start.sigmas, refining_levels(start.sigmas[-1], s.refine or 0)[0])
        self.generator = Generator.from_teacher(network, sigmas).train()
        self.average = Generator.from_teacher(network, sigmas).eval().requires_grad_(False)
        self.start = Generator(frozen, start.sigmas).eval()
        # its first calls as they will be exported, or the new call would see other images than it learnt from
        first_calls = Generator(self.average.denoiser, start.sigmas)
        self.refined = RefinedGenerator(first_calls, refining, s.refine or 0).eval()
        self.adam = adam(self.generator, s.lr, (s.beta1, s.beta2), device)
        self._shared = self.world.share(self.generator.denoiser)
        rows = range(s.batch_size)[self.world.rows(s.batch_size)]
        self.draws = make_draws(s.noise_device, s.seed, s.batch_size, rows, teacher.shape, teacher.conditions, device)
        for model in (frozen, refining, self.generator.denoiser):
            lower_norms(model.net, device)
            if s.compile:
                compile_network(model.net)
        if s.recompute:
            self.generator.denoiser.net.enable_gradient_checkpointing()

    def set_length(self, total: int) -> None:
        """Set the run's length in steps, which the decay of the learning rate depends on."""
        self.total = total

    def step(self, step: int) -> Metrics:
        """One Adam step on the loss of one batch."""
        s, seen = self.settings, (step + 1) * self.batch_size
        self.begun = True
        warmup = min(1.0, seen / (1000 * s.warmup)) if s.warmup else 1.0
        set_rate(self.adam, warmup * trapezoid(step, self.total, 0, s.lr_decay) * s.lr)
        z, condition = self.draws.normal("generator", step, "z"), self.draws.condition("generator", step)
        self.adam.zero_grad(set_to_none=True)
        sums = torch.zeros(2, device=self.device)
        for part, last in micro_batches(s.micro_batch, len(z)):
            losses = self._losses(z[part], condition.rows(part)) * (len(z[part]) / len(z))
            with nullcontext() if last else self.world.without_sync(self._shared):
                losses.sum().backward()
            sums += losses.detach()
        means = self.world.sum(sums) / self.world.size
        done = descend(self.generator, self.adam, means, clip=s.clip_grad or None)
        share = 1 - ema_decay(self.batch_size, seen, s.ema_half_life, s.ema_ramp)
        update_average(self.average, self.generator, share, done.skipped)
        refining, keeping = means
        return {"loss": refining, "keeping_loss": keeping, "grad_norm": done.norm, "skipped": done.skipped}

    def _losses(self, z: Tensor, condition: Condition) -> Tensor:
        """Both terms of the loss for latents z [B, C, H, W] of a condition, means over pixels and images: [2]."""
        with torch.no_grad(), autocast(self.device, self.settings.precision):
            new = self.refined.trace(z, condition)[-1]
            few = slice((len(z) + KEPT - 1) // KEPT)
            kept = self.start.trace(z[few], condition.rows(few))
        asked, conditions = [new, *kept], [condition, *(condition.rows(few) for _ in kept)]
        # one call, since a network shared between processes may be called once per backward pass
        x = torch.cat([call.noisy for call in asked])
        sigma = torch.cat([per_image(call.sigma, call.noisy) for call in asked])
        with autocast(self.device, self.settings.precision):
            made = self._shared(x, sigma, concatenate(conditions)).float()
        found = made.split([len(call.noisy) for call in asked])
        errors = [
            (new.sigma / call.sigma) * (got - call.clean.float()).square().mean()
            for got, call in zip(found, asked, strict=True)
        ]
        return torch.stack([errors[0], sum(errors[1:], torch.zeros_like(errors[0]))])

    def evaluate(self, step: int) -> dict[str, float]:
        """Measure the moving average."""
        return self._evaluate(self.average, step)

    def whole_average(self) -> Generator:
        """The moving average."""
        return self.average

    def tensors(self) -> dict[str, Tensor]:
        """The state to save: generator, moving average, Adam's moments."""
        return {
            **module_tensors("generator", self.generator),
            **module_tensors("average", self.average),
            **optimizer_tensors("adam", self.adam),
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave."""
        load_module("generator", self.generator, tensors)
        load_module("average", self.average, tensors)
        load_optimizer("adam", self.adam, tensors)
