"""A discrete diffusion model seen as a denoiser D(x, sigma)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gsd_cli.core.noise import NoiseSchedule
from gsd_cli.errors import GsdError

PREDICTIONS = ("epsilon", "v_prediction", "sample")


class Denoiser(nn.Module):
    """D(x, sigma): the network's estimate of the clean image in x = y + sigma n.

    Wraps a network that predicts eps, v or x0 from the variance-preserving x / sqrt(1 + sigma^2)
    and an integer-trained t, as k-diffusion's DiscreteEpsDDPMDenoiser does (Karras et al. 2022,
    section 5). Nothing is clipped: a clamp would cut the gradient.
    """

    def __init__(self, net: nn.Module, schedule: NoiseSchedule, prediction: str = "epsilon"):
        super().__init__()
        if prediction not in PREDICTIONS:
            raise GsdError(
                f"unsupported prediction type {prediction!r}",
                hint=f"a teacher must predict one of: {', '.join(PREDICTIONS)}",
            )
        self.net: Any = net
        self.schedule = schedule
        self.prediction = prediction

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images this model makes."""
        size = self.net.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return int(self.net.config.in_channels), int(height), int(width)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """x: [B, C, H, W] = y + sigma n; sigma: [B] > 0. Returns the clean estimate, about [-1, 1]."""
        s = sigma.reshape(-1, 1, 1, 1)
        scale = (1 + s**2).sqrt()
        # t stays a float tensor: UNet2DModel casts a Python float to long
        raw = self.net(x / scale, self.schedule.timestep(sigma)).sample
        if self.prediction == "epsilon":
            clean: Tensor = x - s * raw
        elif self.prediction == "v_prediction":
            clean = x / scale**2 - (s / scale) * raw
        else:
            clean = raw
        return clean

    def encode(self, x: Tensor, sigma: Tensor) -> list[Tensor]:
        """The network's encoder at noise level sigma: outputs of the down blocks, then the mid block.

        Each [B, c, h, w]; the decoder is not run. Works for diffusers' UNet2DModel.
        """
        net = self.net
        scaled = x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2).sqrt()
        t = self.schedule.timestep(sigma).expand(len(x))
        embedding = net.time_embedding(net.time_proj(t).to(scaled.dtype))
        hidden = net.conv_in(scaled)
        maps = []
        for block in net.down_blocks:
            hidden, _ = block(hidden, embedding)
            maps.append(hidden)
        if net.mid_block is not None:
            maps.append(net.mid_block(hidden, embedding))
        return maps


def per_image(value: float, like: Tensor) -> Tensor:
    """A [B] tensor filled with `value`, on the device and in the type of `like` [B, ...]."""
    return torch.full((len(like),), value, device=like.device, dtype=like.dtype)
