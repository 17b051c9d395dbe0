"""The simplest kind of network, a function of image and time, and what holds of every kind of diffusion."""

from __future__ import annotations

import torch
from torch import Tensor

from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.network_kind import NetworkKind

PLAIN = NetworkKind(
    diffusers_class="Plain", class_names=("Plain",), shape=lambda net: (1, 8, 8), classes=lambda net: None,
    call=lambda net, x, t, condition: net(x, t), encode=lambda net, x, t, full: [x], bottleneck=lambda net: net,
    output_layers=lambda net: (),
)  # fmt: skip


def gaussian_estimates(model: Denoiser, spread: float, sigma: float) -> tuple[Tensor, Tensor]:
    """The clean estimate, and E[y | x], of images whose pixels are N(0, spread^2)."""
    x = sigma * torch.randn(4, 1, 3, 3)
    return model(x, per_image(sigma, x)), spread**2 / (spread**2 + sigma**2) * x


def amplifications(model: Denoiser) -> tuple[Tensor, Tensor]:
    """The change of the clean estimate by a change of the output, and the amplification, which has no sign."""
    x, sigma = torch.randn(3, 1, 2, 2), torch.tensor([0.1, 1.0, 30.0])
    change = model.clean(torch.ones_like(x), x, sigma) - model.clean(torch.zeros_like(x), x, sigma)
    return change[:, 0, 0, 0], model.amplification(sigma)
