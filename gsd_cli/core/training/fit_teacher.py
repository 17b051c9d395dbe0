"""Training of a small DDPM (Ho et al. 2020), for users who have images and no teacher."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gsd_cli.base.atomic import atomic_folder, write_json
from gsd_cli.base.errors import GsdError
from gsd_cli.catalogue.run_layout import CARD, GRIDS, grid_name
from gsd_cli.compute.device import adam, autocast, set_rate
from gsd_cli.compute.distributed import World, require_even_shares
from gsd_cli.compute.random import generator_for, latents
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.condition import seed_conditions
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.diffusers_folder import save_denoiser
from gsd_cli.core.sampling.discrete import ddim
from gsd_cli.core.training.averaging import ema_decay, update_average
from gsd_cli.core.training.checkpoint import load_module, load_optimizer, module_tensors, optimizer_tensors
from gsd_cli.core.training.descent import descend, trapezoid
from gsd_cli.core.training.report import Metrics
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.data.pixels import save_grid
from gsd_cli.options import FitSettings

GRID_SEEDS = range(64)
BETAS = (0.9, 0.999)
"""Of Adam: its defaults, as in Ho et al."""


UNETS: dict[str, dict[str, tuple[int, ...]]] = {
    "tiny": {"channels": (8, 16), "attention": ()},
    "small": {"channels": (24, 32, 64, 96), "attention": ()},
    "base": {"channels": (64, 128, 256, 256), "attention": (1,)},
}
"""The networks of `gsd prepare --fit-teacher`: channels per level, and the levels with self-attention."""


def build_unet(architecture: str, size: int, channels: int, classes: int | None = None) -> Any:
    """A UNet2DModel with random weights for images [channels, size, size], conditioned on `classes` if given."""
    from diffusers import UNet2DModel

    widths, attention = UNETS[architecture].values()
    levels = range(len(widths))
    return UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=2 if architecture == "base" else 1,
        block_out_channels=widths,
        norm_num_groups=8,
        attention_head_dim=32 if attention else None,
        num_class_embeds=classes,
        down_block_types=tuple("AttnDownBlock2D" if i in attention else "DownBlock2D" for i in levels),
        up_block_types=tuple("AttnUpBlock2D" if i in attention else "UpBlock2D" for i in reversed(levels)),
    )


class TeacherFit:
    """The eps-prediction task (Ho et al. 2020, algorithm 1): predict n from sqrt(bar_t) x + sqrt(1 - bar_t) n.

    t is uniform. Several processes each work on their rows of the batch and average their gradients.
    """

    def __init__(
        self, data: ImageArchive, settings: FitSettings, run: Path, device: torch.device, world: World | None = None,
        precision: str = "fp32",
    ):  # fmt: skip
        self.settings, self.data, self.run, self.device = settings, data, run, device
        self.precision = precision
        self.world = world or World()
        require_even_shares(settings.batch_size, self.world)
        self.batch_size = settings.batch_size
        channels, size, _ = data.shape
        self.classes = self._count_classes() if settings.conditional else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator_for(settings.seed, "init").initial_seed())
            self.net: nn.Module = build_unet(settings.architecture, size, channels, self.classes).to(device)
        self.average = copy.deepcopy(self.net).eval().requires_grad_(False)
        self._shared = self.world.share(self.net)
        self.schedule = BetaSchedule.linear()
        self.optimizer = adam(self.net, settings.lr, BETAS, device)
        self._order: tuple[int, Tensor] | None = None

    def step(self, step: int) -> Metrics:
        """One Adam step on the eps error of one batch."""
        s = self.settings
        generator, own = generator_for(s.seed, "fit", step), self.world.rows(s.batch_size)
        indices = self._indices(step)[own]
        images = self.data.batch(indices).to(self.device)  # [B, C, H, W] in [-1, 1]
        noise = torch.randn(s.batch_size, *self.data.shape, generator=generator)[own].to(self.device)
        t = _stratified_timesteps(s.batch_size, self.schedule.steps, generator)[own]
        bar = self.schedule.alphas_bar[t].float().to(self.device).reshape(-1, 1, 1, 1)
        noisy = bar.sqrt() * images + (1 - bar).sqrt() * noise
        labels = self.data.labels[indices].to(self.device) if self.classes and self.data.labels is not None else None
        with autocast(self.device, self.precision):
            predicted = self._shared(noisy, t.to(self.device), labels).sample
        loss = (predicted.float() - noise).square().mean()

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
        save_grid(ddim(model, noise, 25), self.run / GRIDS / grid_name(step))
        return {"evaluated": 1.0}

    def denoiser(self) -> Denoiser:
        """The moving average as a teacher."""
        return Denoiser(self.average, self.schedule)

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

    def _count_classes(self) -> int:
        if self.data.labels is None or self.data.labels.ndim != 1:
            raise GsdError(
                f"{self.data.path} has no class labels",
                hint="prepare it from one folder per class or with --labels FILE, or leave out --conditional",
            )
        return max(int(self.data.labels.max()) + 1, len(self.data.record.get("classes") or ()))

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


def _stratified_timesteps(batch: int, steps: int, generator: torch.Generator) -> Tensor:
    """Timesteps [B], one from each of B equal slices of {0..steps-1}: each uniform, their mean with less variance."""
    u = torch.rand(batch, generator=generator, dtype=torch.float64)
    return ((torch.arange(batch) + u) / batch * steps).long().clamp(max=steps - 1)


def save_teacher(task: TeacherFit, folder: Path, *, half: bool, features: str | None) -> Path:
    """Write the moving average as a diffusers pipeline folder with a card."""
    s = task.settings
    card = {
        "format": 1,
        "kind": "teacher",
        "name": folder.name,
        "features": features,
        "classes": (task.data.record.get("classes") or []) if task.classes else [],
        "image_shape": task.data.shape,
        "images": len(task.data),
        "data": task.data.record,
        "fit": s.model_dump(),
        "images_seen": s.steps * s.batch_size,
        "parameters": sum(p.numel() for p in task.net.parameters()),
    }
    with atomic_folder(folder) as temporary:
        save_denoiser(task.denoiser(), temporary, half=half)
        write_json(temporary / CARD, card)
        (temporary / "README.md").write_text(teacher_card(card), encoding="utf-8")
    return folder


def teacher_card(card: dict[str, Any]) -> str:
    """The model card of a fitted teacher."""
    fit, data, (channels, size, _) = card["fit"], card["data"], card["image_shape"]
    seen = f"{fit['steps']} steps of batch {fit['batch_size']} ({card['images_seen']:,} images)"
    kind = "A class-conditional" if fit["conditional"] else "An unconditional"
    return f"""# {card["name"]}

{kind} DDPM (eps-prediction, linear schedule, 1000 steps) for {size} x {size} images with
{channels} channel(s), {card["parameters"]:,} parameters, trained by `gsd prepare --fit-teacher`.

- data: {data.get("source", "unknown")}, {card["images"]} images, licence {data.get("licence") or "unknown"}
- training: {seen}, Adam {fit["lr"]:g}, seed {fit["seed"]}
- weights: moving average, half-life {fit["ema_half_life"]:g} images

Open it with `DDPMPipeline.from_pretrained`, distil it with `gsd distill --teacher {card["name"]}`.
"""
