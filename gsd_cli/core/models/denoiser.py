"""A discrete diffusion model seen as a denoiser D(x, sigma)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from gsd_cli.base.errors import GsdError
from gsd_cli.core.models.schedule import NoiseSchedule

PREDICTIONS = ("epsilon", "v_prediction", "sample")


class Denoiser(nn.Module):
    """D(x, sigma): the network's estimate of the clean image in x = y + sigma n.

    Wraps a network that predicts eps, v or x0 from the variance-preserving x / sqrt(1 + sigma^2)
    and an integer-trained t, as k-diffusion's DiscreteEpsDDPMDenoiser does (Karras et al. 2022,
    section 5). Nothing is clipped here: a clamp would cut the gradient. `clip_sample` says whether
    the model's own samplers clip the clean estimate to [-1, 1], as pixel models do.

    A class-conditional network takes its labels from the view that `given` returns.
    """

    def __init__(
        self, net: nn.Module, schedule: NoiseSchedule, prediction: str = "epsilon", *, clip_sample: bool = True
    ):
        super().__init__()
        if prediction not in PREDICTIONS:
            raise GsdError(
                f"unsupported prediction type {prediction!r}",
                hint=f"a teacher must predict one of: {', '.join(PREDICTIONS)}",
            )
        self.net: Any = net
        self.schedule = schedule
        self.prediction = prediction
        self.clip_sample = clip_sample
        self.labels: Tensor | None = None

    def given(self, labels: Tensor | None) -> Denoiser:
        """A view of this model, weights shared, with its classes fixed: int64 [B], or None."""
        view = copy.copy(self)
        view.labels = labels
        return view

    @property
    def device(self) -> torch.device:
        """The device of its weights."""
        parameter: Tensor = next(self.parameters())
        return parameter.device

    @property
    def classes(self) -> int | None:
        """How many classes the network is conditioned on; None for an unconditional one."""
        count: int | None = getattr(self.net.config, "num_class_embeds", None)
        return count

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what this model denoises: images, or an autoencoder's latents."""
        size = self.net.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return int(self.net.config.in_channels), int(height), int(width)

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """x: [B, C, H, W] = y + sigma n; sigma: [B] > 0; labels: int64 [B], or those of the view.

        Returns the clean estimate, about [-1, 1].
        """
        s = sigma.reshape(-1, 1, 1, 1)
        scale = (1 + s**2).sqrt()
        # t stays a float tensor: UNet2DModel casts a Python float to long
        labels = self.labels if labels is None else labels
        condition = () if labels is None else (labels,)
        raw = self.net(x / scale, self.schedule.timestep(sigma), *condition).sample
        if self.prediction == "epsilon":
            clean: Tensor = x - s * raw
        elif self.prediction == "v_prediction":
            clean = x / scale**2 - (s / scale) * raw
        else:
            clean = raw
        return clean

    def amplification(self, sigma: Tensor) -> Tensor:
        """By how much the clean estimate moves when the network's output moves by one: sigma's shape."""
        if self.prediction == "epsilon":
            return sigma
        return sigma / (1 + sigma**2).sqrt() if self.prediction == "v_prediction" else torch.ones_like(sigma)

    def encode(self, x: Tensor, sigma: Tensor, *, full: bool = False) -> list[Tensor]:
        """The network's encoder at noise level sigma: outputs of the down blocks, then the mid block.

        Each [B, c, h, w]; the decoder is not run. Works for diffusers' UNet2DModel. Classes are left
        out, so that a feature is a function of the image alone. `full`: the map of full resolution, before
        the first downsampling, comes first.
        """
        net = self.net
        scaled = x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2).sqrt()
        if net.config.center_input_sample:
            scaled = 2 * scaled - 1
        t = self.schedule.timestep(sigma).expand(len(x))
        embedding = net.time_embedding(net.time_proj(t).to(scaled.dtype))
        hidden = net.conv_in(scaled)
        maps: list[Tensor] = []
        for block in net.down_blocks:
            hidden, skips = block(hidden, embedding)
            if full and not maps:
                # a block's last skip is its downsampled output
                maps.append(skips[-1 if block.downsamplers is None else -2])
            maps.append(hidden)
        if net.mid_block is not None:
            maps.append(net.mid_block(hidden, embedding))
        return maps


def per_image(value: float, like: Tensor) -> Tensor:
    """A [B] tensor filled with `value`, on the device and in the type of `like` [B, ...]."""
    return torch.full((len(like),), value, device=like.device, dtype=like.dtype)
