"""The discrete chains of a DDPM: ancestral sampling and DDIM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gsd_cli.compute.random import seed_generator
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.sampling.sampler_kind import OnStep


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

    Variance, timesteps and, with `clip`, the limit of the clean estimate are those of the model's own pipeline
    (`Chain`); a variance may be the network's own. The noise of image k comes from seeds[k] alone. Raises GsdError
    (exit 2) for more steps than levels.
    """
    alphas_bar, chain = _alphas_bar(model), model.chain  # on the CPU, where reading holds up no device
    times = chain.timesteps(len(alphas_bar), steps or len(alphas_bar))
    streams = [seed_generator(seed, "ancestral") for seed in seeds]
    x = noise  # variance-preserving scale, as the algorithm is written
    for i, t in enumerate(times):
        bar = alphas_bar[t]
        previous = alphas_bar[times[i + 1]] if i + 1 < len(times) else torch.ones_like(bar)
        alpha = bar / previous
        sigma = ((1 - bar) / bar).sqrt().float()
        noisy, level = x / bar.sqrt().float(), per_image(sigma.item(), x)
        raw, variance = model.raw_and_variance(noisy, level)
        clean = model.clean(raw, noisy, level)
        if clip:
            clean = chain.limit(clean)
        to_clean = (previous.sqrt() * (1 - alpha) / (1 - bar)).float()
        to_x = (alpha.sqrt() * (1 - previous) / (1 - bar)).float()
        x = to_clean * clean + to_x * x
        if t > 0 and len(times) > 1:
            fresh = torch.stack([torch.randn(noise.shape[1:], generator=g) for g in streams])
            x = x + chain.deviation(bar, previous, variance).float() * fresh.to(x)
        if on_step is not None:
            on_step(i + 1, len(times))
    return x


@torch.no_grad()
def ddim(model: Denoiser, noise: Tensor, steps: int = 50, clip: bool = True, on_step: OnStep | None = None) -> Tensor:
    """DDIM with eta 0 (Song et al. 2021, eq. 12): deterministic.

    Timesteps and, with `clip`, the limit of the clean estimate are those of the model's own pipeline (`Chain`). Raises
    GsdError (exit 2) for more steps than noise levels.
    """
    alphas_bar, chain = _alphas_bar(model), model.chain  # on the CPU, where reading holds up no device
    times = chain.timesteps(len(alphas_bar), steps)
    end = torch.ones(()) if chain.ends_clean else alphas_bar[0].float()
    x = noise
    for i, t in enumerate(times):
        bar = alphas_bar[t].float()
        previous = alphas_bar[times[i + 1]].float() if i + 1 < len(times) else end
        sigma = ((1 - bar) / bar).sqrt()
        clean = model(x / bar.sqrt(), per_image(sigma.item(), x))
        eps = (x - bar.sqrt() * clean) / (1 - bar).sqrt()
        if clip:  # the noise estimate uses the unclipped clean image, as diffusers does by default
            clean = chain.limit(clean)
        x = previous.sqrt() * clean + (1 - previous).sqrt() * eps
        if on_step is not None:
            on_step(i + 1, len(times))
    return x


def _alphas_bar(model: Denoiser) -> Tensor:
    assert isinstance(model.schedule, BetaSchedule)
    return model.schedule.alphas_bar
