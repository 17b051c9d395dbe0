"""The teacher's own discrete chains: ancestral sampling and DDIM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gsd_cli.compute.random import generator_for
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.sampling.sampler_kind import OnStep, SamplerKind


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
    on_step: OnStep | None = None,
) -> Tensor:
    """DDPM's ancestral sampler (Ho et al. 2020, algorithm 2), the paper's MSA baseline.

    The variance is "fixed large" (beta_t); `clip` clips the clean estimate to [-1, 1], as DDPM pipelines
    do. The noise of image k comes from seeds[k] alone.
    """
    alphas_bar = model.schedule.alphas_bar  # on the CPU, where reading a number holds up no device
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
def ddim(model: Denoiser, noise: Tensor, steps: int = 50, clip: bool = True, on_step: OnStep | None = None) -> Tensor:
    """DDIM with eta 0 (Song et al. 2021, eq. 12): deterministic."""
    alphas_bar = model.schedule.alphas_bar  # on the CPU, where reading a number holds up no device
    times = _leading_timesteps(model.schedule.steps, steps)
    x = noise
    for i, t in enumerate(times):
        bar = alphas_bar[t].float()
        previous = alphas_bar[times[i + 1]].float() if i + 1 < len(times) else torch.ones_like(bar)
        sigma = ((1 - bar) / bar).sqrt()
        clean = model(x / bar.sqrt(), per_image(sigma.item(), x))
        eps = (x - bar.sqrt() * clean) / (1 - bar).sqrt()
        if clip:  # the noise estimate uses the unclipped clean image, as diffusers does by default
            clean = clean.clamp(-1, 1)
        x = previous.sqrt() * clean + (1 - previous).sqrt() * eps
        if on_step is not None:
            on_step(i + 1, len(times))
    return x


MSA = SamplerKind(
    "msa",
    steps=None,
    sample=lambda model, noise, r: ancestral(model, noise, r.seeds, r.steps, r.clip, r.on_step),
    deterministic=False,
)
DDIM = SamplerKind("ddim", steps=50, sample=lambda model, noise, r: ddim(model, noise, r.steps, r.clip, r.on_step))
