"""What maps latents to images: a generator in torch, or an exported file of one."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from gsd_cli.core.models.condition import Condition


class Renderer(Protocol):
    """G(z) as `gsd sample` needs it."""

    @property
    def device(self) -> torch.device:
        """Where it takes its tensors."""

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of z."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""

    @property
    def conditions(self) -> Condition:
        """All conditions that it is used with, a row each: its classes, or its prompts."""

    def __call__(self, z: Tensor, condition: Condition | None = None) -> Tensor:
        """Images [B, *image_shape], about [-1, 1], of z [B, *latent_shape] and the condition of B images."""
