"""Samplers: one short function each, over a Denoiser, in variance-exploding scale.

Each takes `noise` [B, C, H, W] ~ N(0, I) and returns images, about [-1, 1], unclamped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gsd_cli.core.denoiser import Denoiser, per_image
from gsd_cli.core.noise import generator_for
from gsd_cli.errors import ExitCode, GsdError

Step = Callable[[int, int], None]
ONE_STEP_SIGMA = 2.5
"""Where `one-step-teacher` calls the network: where distillation starts."""


def _leading_timesteps(total: int, steps: int) -> list[int]:
    """diffusers' "leading" spacing: multiples of total // steps, from high to low."""
    return [i * (total // steps) for i in range(steps)][::-1]


@torch.no_grad()
def ancestral(
    model: Denoiser,
    noise: Tensor,
    seeds: Sequence[int],
    steps: int | None = None,
    clip: bool = True,
    on_step: Step | None = None,
) -> Tensor:
    """DDPM's ancestral sampler (Ho et al. 2020, algorithm 2), the paper's MSA baseline.

    Variance "fixed large" (beta_t), clean estimate clipped to [-1, 1] as DDPM pipelines do.
    Image k's noise comes from seeds[k] alone.
    """
    alphas_bar = model.schedule.alphas_bar.to(noise.device)
    times = _leading_timesteps(model.schedule.steps, steps or model.schedule.steps)
    stride = model.schedule.steps // len(times)
    streams = [generator_for(seed, "ancestral") for seed in seeds]
    x = noise  # variance-preserving scale, as the algorithm is written
    for i, t in enumerate(times):
        bar = alphas_bar[t]
        previous = alphas_bar[t - stride] if t >= stride else torch.ones_like(bar)
        alpha = bar / previous
        beta = 1 - alpha
        sigma = ((1 - bar) / bar).sqrt().float()
        clean = model(x / bar.sqrt().float(), per_image(sigma.item(), x))
        if clip:
            clean = clean.clamp(-1, 1)
        to_clean = (previous.sqrt() * beta / (1 - bar)).float()
        to_x = (alpha.sqrt() * (1 - previous) / (1 - bar)).float()
        x = to_clean * clean + to_x * x
        if t > 0:
            fresh = torch.stack([torch.randn(noise.shape[1:], generator=g) for g in streams])
            x = x + beta.sqrt().float() * fresh.to(x)
        if on_step is not None:
            on_step(i + 1, len(times))
    return x


@torch.no_grad()
def ddim(model: Denoiser, noise: Tensor, steps: int = 50, clip: bool = True, on_step: Step | None = None) -> Tensor:
    """DDIM with eta 0 (Song et al. 2021, eq. 12): deterministic."""
    alphas_bar = model.schedule.alphas_bar.to(noise.device)
    times = _leading_timesteps(model.schedule.steps, steps)
    x = noise
    for i, t in enumerate(times):
        bar = alphas_bar[t].float()
        previous = alphas_bar[times[i + 1]].float() if i + 1 < len(times) else torch.ones_like(bar)
        sigma = ((1 - bar) / bar).sqrt()
        clean = model(x / bar.sqrt(), per_image(sigma.item(), x))
        eps = (x - bar.sqrt() * clean) / (1 - bar).sqrt()
        if clip:  # the noise estimate keeps the network's own clean image, as diffusers has it by default
            clean = clean.clamp(-1, 1)
        x = previous.sqrt() * clean + (1 - previous).sqrt() * eps
        if on_step is not None:
            on_step(i + 1, len(times))
    return x


@dataclass(frozen=True)
class Sampler:
    """A sampler by name: `msa`, `msa-100`, `ddim-50`, `one-step-teacher`."""

    name: str
    kind: str
    steps: int | None

    def __call__(self, model: Denoiser, noise: Tensor, seeds: Sequence[int], on_step: Step | None = None) -> Tensor:
        """Images from noise [B, C, H, W]; seeds name the fresh noise of each image. Clips if the model's own
        sampler does."""
        clip = model.clip_sample
        if self.kind == "msa":
            return ancestral(model, noise, seeds, self.steps, clip, on_step)
        if self.kind == "ddim":
            return ddim(model, noise, self.calls(model), clip, on_step)
        with torch.no_grad():
            return model(ONE_STEP_SIGMA * noise, per_image(ONE_STEP_SIGMA, noise))

    def calls(self, model: Denoiser) -> int:
        """Network calls per image."""
        default = {"msa": model.schedule.steps, "ddim": 50, "one-step-teacher": 1}[self.kind]
        return self.steps or default


def parse_sampler(name: str) -> Sampler:
    """Read a sampler's name. Raises GsdError (exit 2) for an unknown one."""
    if name == "one-step-teacher":
        return Sampler(name, name, 1)
    kind, dash, steps = name.partition("-")
    if kind not in ("msa", "ddim") or (dash and not (steps.isascii() and steps.isdigit() and 0 < int(steps) <= 1000)):
        raise GsdError(
            f"unknown sampler {name!r}",
            hint="msa (all of the teacher's steps), msa-100, ddim-50, one-step-teacher",
            code=ExitCode.USAGE,
        )
    return Sampler(name, kind, int(steps) if dash else None)
