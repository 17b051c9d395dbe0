"""The discriminator: small heads on the frozen teacher's encoder tell real images from generated ones.

SiDA (Zhou et al., ICLR 2025) adds real images to score identity distillation through the fake score's encoder. Here
the encoder is the teacher's and stays frozen, and only the heads are trained: the features cannot drift with the images
that they judge.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gsd_cli.compute.device import DeviceConstant
from gsd_cli.compute.random import generator_for
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.denoiser import Denoiser, per_image

WIDTH, WIDTH_AT_FULL_RESOLUTION = 64, 16
"""Channels of a head; the one at full resolution takes most of the time."""
GROUPS = 8
FREQUENCIES = (0.5, 1.0, 2.0, 4.0)
"""Frequencies of the embedding of log sigma, radians per unit."""


class Head(nn.Module):
    """One encoder map [B, c, h, w] to a map of logits [B, h, w].

    A 1 x 1 convolution plus an embedding of log sigma (and of the class), one residual 3 x 3 convolution,
    and a 1 x 1 convolution.
    """

    def __init__(self, channels: int, width: int, classes: int | None):
        super().__init__()
        self.enter = nn.Conv2d(channels, width, 1)
        self.level = nn.Linear(2 * len(FREQUENCIES), width)
        self.label = nn.Embedding(classes, width) if classes else None
        self.norm = nn.GroupNorm(GROUPS, width)
        self.body = nn.Conv2d(width, width, 3, padding=1)
        self.exit = nn.Conv2d(width, 1, 1)

    def forward(self, features: Tensor, level: Tensor, condition: Condition) -> Tensor:
        """level: [B, 2 len(FREQUENCIES)], from `embed_level`."""
        embedding = self.level(level)
        if self.label is not None and condition.classes is not None:
            embedding = embedding + self.label(condition.classes)
        hidden = F.leaky_relu(self.enter(features) + embedding[:, :, None, None], 0.2)
        hidden = hidden + F.leaky_relu(self.body(self.norm(hidden)), 0.2)
        logits: Tensor = self.exit(hidden).squeeze(1)
        return logits.float()


class Heads(nn.Module):
    """One head per encoder map: the trained part of the discriminator."""

    def __init__(self, channels: Sequence[int], classes: int | None):
        super().__init__()
        widths = [WIDTH_AT_FULL_RESOLUTION, *[WIDTH] * (len(channels) - 1)]
        self.heads = nn.ModuleList(Head(c, width, classes) for c, width in zip(channels, widths, strict=True))

    def forward(self, maps: Sequence[Tensor], sigma: Tensor, condition: Condition) -> list[Tensor]:
        """Encoder maps [B, c, h, w] at noise levels [B] to maps of logits [B, h, w]."""
        level = embed_level(sigma)
        return [head(features, level, condition) for head, features in zip(self.heads, maps, strict=True)]


def build_heads(teacher: Denoiser, seed: int) -> Heads:
    """Heads for this teacher's encoder; their initial weights are a function of the seed."""
    device = teacher.device
    with torch.no_grad():
        x = torch.zeros(1, *teacher.shape, device=device)
        channels = [m.shape[1] for m in teacher.encode(x, per_image(1.0, x), full=True)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_for(seed, "discriminator").initial_seed())
        return Heads(channels, teacher.classes).to(device)


def encoder_maps(teacher: Denoiser, x: Tensor, sigma: Tensor) -> list[Tensor]:
    """The frozen teacher's encoder maps of noisy images x [B, C, H, W] at sigma [B], normalised over channels.

    Each position's channel vector gets a root mean square of 1.
    """
    return [F.normalize(m.float(), dim=1) * m.shape[1] ** 0.5 for m in teacher.encode(x, sigma, full=True)]


_FREQUENCIES = DeviceConstant(torch.tensor(FREQUENCIES))


def embed_level(sigma: Tensor) -> Tensor:
    """Sines and cosines of log sigma: [B] to [B, 2 len(FREQUENCIES)]."""
    angles = sigma.log()[:, None] * _FREQUENCIES.on(sigma.device)
    return torch.cat([angles.sin(), angles.cos()], 1)
