"""One network call of the teacher: the image from which distillation starts."""

from __future__ import annotations

import torch
from torch import Tensor

from gsd_cli.catalogue.registry import ONE_STEP
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.sampling.sampler_kind import SamplerKind

ONE_STEP_SIGMA = 2.5
"""The noise level of the call: the default one of a distilled generator."""


@torch.no_grad()
def one_step(model: Denoiser, noise: Tensor) -> Tensor:
    """D(sigma noise, sigma) at sigma = ONE_STEP_SIGMA."""
    return model(ONE_STEP_SIGMA * noise, per_image(ONE_STEP_SIGMA, noise))


ONE_STEP_TEACHER = SamplerKind(ONE_STEP, steps=1, sample=lambda model, noise, _: one_step(model, noise))
