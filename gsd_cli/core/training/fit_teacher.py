"""Training of a small diffusion model, for users who have images and no teacher."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from gsd_cli.catalogue.run_layout import GRIDS, grid_name
from gsd_cli.compute.device import adam, autocast, set_rate
from gsd_cli.compute.distributed import World, require_even_shares
from gsd_cli.compute.random import generator_for, latents
from gsd_cli.core.models.condition import seed_conditions
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.unet2d import UNET2D
from gsd_cli.core.models.unet2d_condition import UNET2D_CONDITION
from gsd_cli.core.sampling.samplers import parse_sampler
from gsd_cli.core.training.averaging import ema_decay, update_average
from gsd_cli.core.training.checkpoint import load_module, load_optimizer, module_tensors, optimizer_tensors
from gsd_cli.core.training.descent import descend, trapezoid
from gsd_cli.core.training.fit_conditions import FitConditions, class_conditions
from gsd_cli.core.training.fit_objectives import OBJECTIVES, stratify
from gsd_cli.core.training.report import Metrics
from gsd_cli.core.training.unets import build_unet
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.data.pixels import save_grid
from gsd_cli.options import FitSettings

GRID_SEEDS = range(64)
GRID_SAMPLER = parse_sampler("ddim-25")
BETAS = (0.9, 0.999)
"""Of Adam: its defaults, as in Ho et al."""


class TeacherFit:
    """Predict what an objective says (`fit_objectives.py`) from an image with noise, in the mean square.

    conditions: those of the images; by default the classes that the settings ask for, or none. Several processes each
    work on their rows of the batch and average their gradients.
    """

    def __init__(
        self, data: ImageArchive, settings: FitSettings, run: Path, device: torch.device, world: World | None = None,
        precision: str = "fp32", conditions: FitConditions | None = None,
    ):  # fmt: skip
        self.settings, self.data, self.run, self.device = settings, data, run, device
        self.precision = precision
        self.world = world or World()
        require_even_shares(settings.batch_size, self.world)
        self.batch_size = settings.batch_size
        channels, size, _ = data.shape
        if conditions is None:
            conditions = class_conditions(data) if settings.conditional else FitConditions()
        self.conditions = conditions
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator_for(settings.seed, "init").initial_seed())
            classes, sizes = self.conditions.classes, self.conditions.text_sizes
            text = sizes and sizes[1]
            self.net: nn.Module = build_unet(settings.architecture, size, channels, classes, text).to(device)
        self.average = copy.deepcopy(self.net).eval().requires_grad_(False)
        self._shared = self.world.share(self.net)
        self.objective = OBJECTIVES[settings.objective]
        self.optimizer = adam(self.net, settings.lr, BETAS, device)
        self._order: tuple[int, Tensor] | None = None

    def step(self, step: int) -> Metrics:
        """One Adam step on the error of one batch."""
        s = self.settings
        generator, own = generator_for(s.seed, "fit", step), self.world.rows(s.batch_size)
        indices = self._indices(step)
        condition = self.conditions.draw(indices, generator_for(s.seed, "condition", step)).rows(own).to(self.device)
        images = self.data.batch(indices[own]).to(self.device)  # [B, C, H, W] in [-1, 1]
        noise = torch.randn(s.batch_size, *self.data.shape, generator=generator)[own].to(self.device)
        t, *shares = (part[own].to(self.device) for part in self.objective.mix(stratify(s.batch_size, generator)))
        of_image, of_noise = (share.reshape(-1, 1, 1, 1) for share in shares)
        noisy = of_image * images + of_noise * noise
        given = condition.classes if condition.embeddings is None else condition.embeddings
        with autocast(self.device, self.precision):
            predicted = self._shared(noisy, t, given).sample
        loss = (predicted.float() - self.objective.target(images, noise)).square().mean()

        lr = s.lr * trapezoid(step, s.steps, s.warmup_steps, s.decay)
        set_rate(self.optimizer, lr)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        mean = self.world.sum(loss.detach()) / self.world.size
        done = descend(self.net, self.optimizer, mean, clip=s.clip_grad)
        beta = ema_decay(s.batch_size, (step + 1) * s.batch_size, s.ema_half_life)
        update_average(self.average, self.net, 1 - beta, done.skipped)
        return {"loss": mean, "grad_norm_loss": done.norm, "lr": lr, "skipped": done.skipped}

    def evaluate(self, step: int) -> dict[str, float]:
        """A grid of DDIM-25 samples of the moving average on fixed seeds."""
        if step == 0 or not self.world.main:
            return {}
        noise = latents(list(GRID_SEEDS), self.data.shape).to(self.device)
        model = self.denoiser()
        model = model.with_condition(seed_conditions(model.conditions, GRID_SEEDS).to(self.device))
        save_grid(GRID_SAMPLER(model, noise, GRID_SEEDS), self.run / GRIDS / grid_name(step))
        return {"evaluated": 1.0}

    def denoiser(self) -> Denoiser:
        """The moving average as a teacher, with all captions as its prompts."""
        prompts = self.conditions.prompts
        kind = UNET2D if prompts is None else UNET2D_CONDITION
        model = Denoiser(self.average, self.objective.schedule, self.objective.prediction, kind=kind)
        if prompts is not None:
            model.give_prompts(prompts.condition, prompts.empty)
        return model

    def tensors(self) -> dict[str, Tensor]:
        """Network, moving average, Adam's moments."""
        return {
            **module_tensors("net", self.net),
            **module_tensors("average", self.average),
            **optimizer_tensors("adam", self.optimizer),
        }

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave."""
        load_module("net", self.net, tensors)
        load_module("average", self.average, tensors)
        load_optimizer("adam", self.optimizer, tensors)

    def _indices(self, step: int) -> Tensor:
        """The numbers of this step's images, int64 [B]: each epoch is a new permutation."""
        n, first = len(self.data), step * self.batch_size
        positions = range(first, first + self.batch_size)
        return torch.stack([self._permutation(p // n)[p % n] for p in positions])

    def _permutation(self, epoch: int) -> Tensor:
        if self._order is None or self._order[0] != epoch:
            order = torch.randperm(len(self.data), generator=generator_for(self.settings.seed, "epoch", epoch))
            self._order = (epoch, order)
        return self._order[1]
