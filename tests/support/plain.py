"""The simplest kind of network, a function of image and time, and what holds of every kind of diffusion."""

from __future__ import annotations

import torch

from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.network_kind import NetworkKind

PLAIN = NetworkKind(
    diffusers_class="Plain", class_names=("Plain",), shape=lambda net: (1, 8, 8), classes=lambda net: None,
    call=lambda net, x, t, condition: net(x, t), encode=lambda net, x, t, full: [x], bottleneck=lambda net: net,
    output_layers=lambda net: (),
)  # fmt: skip


def require_gaussian_estimate(model: Denoiser, spread: float, sigma: float, *, atol: float, rtol: float = 1e-4) -> None:
    """The clean estimate is E[y | x] for images whose pixels are N(0, spread^2)."""
    x = sigma * torch.randn(4, 1, 3, 3)
    expected = spread**2 / (spread**2 + sigma**2) * x
    torch.testing.assert_close(model(x, per_image(sigma, x)), expected, atol=atol, rtol=rtol)


def require_true_amplification(model: Denoiser, sign: int = 1) -> None:
    """The amplification is the change of the clean estimate by a change of the output; sign: of that change."""
    x, sigma = torch.randn(3, 1, 2, 2), torch.tensor([0.1, 1.0, 30.0])
    change = model.clean(torch.ones_like(x), x, sigma) - model.clean(torch.zeros_like(x), x, sigma)
    torch.testing.assert_close(sign * change[:, 0, 0, 0], model.amplification(sigma))
