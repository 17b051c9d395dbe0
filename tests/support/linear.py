"""A generator with results in closed form: an orthogonal map of z, then a bottleneck that does nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gsd_cli.core.models.condition import UNCONDITIONAL, Condition
from gsd_cli.core.models.generator import Generator


class Linear(nn.Module):
    """Images [B, 1, 8, 8] = W z, W orthogonal."""

    latent_shape = image_shape = (1, 8, 8)
    exported = None
    condition = UNCONDITIONAL

    def __init__(self) -> None:
        super().__init__()
        matrix = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(3))).Q
        self.weight = nn.Parameter(matrix, requires_grad=False)
        self.middle = nn.Identity()

    @property
    def device(self) -> torch.device:
        return self.weight.device

    def hook_bottleneck(self, function: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        return self.middle.register_forward_hook(lambda module, inputs, output: function(output))

    def forward(self, z: Tensor, condition: Condition | None = None) -> Tensor:
        return self.middle((z.flatten(1) @ self.weight.T).reshape(-1, 1, 8, 8))


def linear() -> Generator:
    """The linear generator, in the type that functions ask for."""
    return cast(Any, Linear())
