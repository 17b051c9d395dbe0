"""Refinement distillation: a network learns to do in one call what several calls of the teacher do.

    x_1          the start's image of a latent z, by its own network, which stays as it is
    x = x_1 + s n(z),   y = R(x): K steps of the teacher's ODE from s to 0, as `core/sampling/refined.py` makes them

    L = mean (D(x, s) - y)^2

It is progressive distillation (Salimans and Ho, ICLR 2022) of the last piece of the ODE, for the images of one
generator. From a low noise level there is little left to choose, so the mean square is enough. D begins as the teacher
and is another network: one network for both calls lets the first one drift (docs/experiments.md).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor

from gsd_cli.base.errors import UsageError
from gsd_cli.compute.device import adam, autocast, cast_for_autocast, compile_network, lower_norms, set_rate, to_device
from gsd_cli.compute.distributed import World, require_even_shares
from gsd_cli.core.distillation.draws import make_draws
from gsd_cli.core.distillation.guidance import require_null_condition
from gsd_cli.core.distillation.micro_batches import micro_batches
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.generator import Generator, set_dropout
from gsd_cli.core.sampling.refined import RefinedGenerator
from gsd_cli.core.training.averaging import ema_decay, update_average
from gsd_cli.core.training.checkpoint import load_module, load_optimizer, module_tensors, optimizer_tensors
from gsd_cli.core.training.descent import descend, trapezoid
from gsd_cli.core.training.report import Metrics
from gsd_cli.options import DistillSettings


class RefinementDistillation:
    """The network of a second call, trained for the images of `start`, and its moving average.

    start: the generator of one call whose images are refined, frozen. teacher: refines them, frozen; by its guidance.
    settings.refine: the teacher's calls K. With several processes each works on its rows of the batch.
    Raises UsageError for a start of several calls.
    """

    sharded = False

    def __init__(
        self, start: Generator, teacher: Denoiser, settings: DistillSettings, total_steps: int, device: torch.device,
        evaluate: Callable[[Generator, int], dict[str, float]], world: World | None = None, guidance: float = 1.0,
    ):  # fmt: skip
        s, self.world = settings, world or World()
        require_even_shares(s.batch_size, self.world)
        if start.calls > 1:
            raise UsageError(
                [f"--refine adds a call to a generator of one, and that of --start makes {start.calls}"],
                hint="start from a generator of one call",
            )
        self.settings, self.device, self.total, self._evaluate = s, device, total_steps, evaluate
        self.batch_size, self.begun = s.batch_size, False
        first, teacher = (to_device(part, device).eval().requires_grad_(False) for part in (start.denoiser, teacher))
        self.network = copy.deepcopy(teacher).requires_grad_(True).train()
        set_dropout(self.network, 0.0)  # the teacher's own, if its config has one
        self._second = copy.deepcopy(teacher)
        calling, refining = (cast_for_autocast(part, s.precision) for part in (first, teacher))
        if guidance != 1:
            require_null_condition(teacher)
            refining = refining.with_guidance(guidance)
        self.refined = RefinedGenerator(Generator(calling, start.sigmas), refining, s.refine or 0).eval()
        self.average = Generator(first, (*start.sigmas, self.refined.refining[0]), later=self._second).eval()
        self.adam = adam(self.network, s.lr, (s.beta1, s.beta2), device)
        self._shared = self.world.share(self.network)
        rows = range(s.batch_size)[self.world.rows(s.batch_size)]
        self.draws = make_draws(s.noise_device, s.seed, s.batch_size, rows, teacher.shape, teacher.conditions, device)
        for model in (calling, refining, self.network):
            lower_norms(model.net, device)
            if s.compile:
                compile_network(model.net)
        if s.recompute:
            self.network.net.enable_gradient_checkpointing()

    def set_length(self, total: int) -> None:
        """Set the run's length in steps, which the decay of the learning rate depends on."""
        self.total = total

    def step(self, step: int) -> Metrics:
        """One Adam step on the loss of one batch."""
        s, seen = self.settings, (step + 1) * self.batch_size
        self.begun = True
        set_rate(self.adam, s.warmup_factor(seen) * trapezoid(step, self.total, 0, s.lr_decay) * s.lr)
        z, condition = self.draws.normal("generator", step, "z"), self.draws.condition("generator", step)
        self.adam.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for part, last in micro_batches(s.micro_batch, len(z)):
            loss = self._loss(z[part], condition.rows(part)) * (len(z[part]) / len(z))
            with nullcontext() if last else self.world.without_sync(self._shared):
                loss.backward()
            total += loss.detach()
        mean = self.world.sum(total) / self.world.size
        done = descend(self.network, self.adam, mean, clip=s.clip_grad or None)
        share = 1 - ema_decay(self.batch_size, seen, s.ema_half_life, s.ema_ramp)
        update_average(self._second, self.network, share, done.skipped)
        return {"loss": mean, "grad_norm": done.norm, "skipped": done.skipped}

    def _loss(self, z: Tensor, condition: Condition) -> Tensor:
        """The loss for latents z [B, C, H, W] of a condition, mean over pixels and images: []."""
        with torch.no_grad(), autocast(self.device, self.settings.precision):
            noisy, sigma, wanted = self.refined.trace(z, condition)[-1]
        with autocast(self.device, self.settings.precision):
            made = self._shared(noisy, per_image(sigma, noisy), condition)
        return (made.float() - wanted.float()).square().mean()

    def evaluate(self, step: int) -> dict[str, float]:
        """Measure the start with the moving average as its second call."""
        return self._evaluate(self.average, step)

    def whole_average(self) -> Generator:
        """The start with the moving average as its second call."""
        return self.average

    def tensors(self) -> dict[str, Tensor]:
        """The state to save: network, moving average, Adam's moments."""
        return {
            **module_tensors("network", self.network),
            **module_tensors("average", self._second),
            **optimizer_tensors("adam", self.adam),
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave."""
        load_module("network", self.network, tensors)
        load_module("average", self._second, tensors)
        load_optimizer("adam", self.adam, tensors)
