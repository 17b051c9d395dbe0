"""What a sampler is: one `SamplerKind` record next to its function.

To add a sampler, write a module with its function and its record, add the record to `SAMPLER_KINDS` in
`samplers.py`, and add its name to `SAMPLERS` in `catalogue/registry.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gsd_cli.core.models.denoiser import Denoiser

OnStep = Callable[[int, int], None]
"""Called after each step with (step, steps)."""


@dataclass(frozen=True)
class Request:
    """One call of a sampler.

    seeds: one per image, for noise beyond the first. clip: whether the clean estimate is clipped to
    [-1, 1]. sigmas: the fitted noise levels, for a kind that fits them.
    """

    steps: int
    seeds: Sequence[int]
    clip: bool
    sigmas: tuple[float, ...] = ()
    on_step: OnStep | None = None


@dataclass(frozen=True)
class SamplerKind:
    """One way to sample a teacher."""

    name: str
    steps: int | None
    """The number of steps when the name gives none; None for every step of the teacher."""
    sample: Callable[[Denoiser, Tensor, Request], Tensor]
    """(model, noise [B, C, H, W] ~ N(0, I), request): images [B, C, H, W], about [-1, 1], unclamped."""
    calls: Callable[[int], int] = lambda steps: steps
    """Network calls per image as a function of the number of steps."""
    smallest: int = 1
    """The smallest number of steps."""
    deterministic: bool = True
    """Whether the image is a function of the noise alone."""
    discrete: bool = False
    """Whether it steps through the teacher's own noise levels, as the teacher's scheduler does."""
    fit: Callable[[Denoiser, int, torch.device], tuple[float, ...]] | None = None
    """(model, steps, device): noise levels fitted to a teacher; None for a kind that fits none."""
