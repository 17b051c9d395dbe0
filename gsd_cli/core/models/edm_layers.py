"""The layers of EDM's networks (Karras et al. 2022, appendix F): written from the paper and from the published shapes.

Attribute names are those of the tensors in the published files. Every map is [B, C, H, W].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Resample = Literal["up", "down"]


class Convolution(nn.Module):
    """A convolution of odd kernel size, with zeros around the map, and before it the resolution doubled or halved.

    kernel 0: the resampling alone. taps: of the separable filter that resamples (Karras et al. 2022 have two for
    DDPM++, four for NCSN++). fused: the filter comes after the convolution, on a map that is padded for both.
    """

    resample_filter: Tensor

    def __init__(
        self, channels: int, out: int, kernel: int, *, resample: Resample | None = None,
        taps: Sequence[float] = (1, 1), fused: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.resample, self.fused, self.kernel, self.reach = resample, fused, kernel, (len(taps) - 1) // 2
        if kernel:
            like = nn.Conv2d(channels, out, kernel)  # for its initial values
            self.weight, self.bias = like.weight, like.bias
        if resample is not None:
            line = torch.tensor([float(tap) for tap in taps])
            self.register_buffer("resample_filter", (torch.outer(line, line) / line.sum() ** 2)[None, None])

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, channels, H, W]. [B, out, H', W'], where H' is H, H / 2 or 2 H."""
        if self.fused and self.resample == "down":
            x = F.conv2d(x, self.weight, padding=self.kernel // 2 + self.reach)
            assert self.bias is not None
            return self._filter(x, padding=0) + self.bias[:, None, None]
        if self.resample is not None:
            x = self._filter(x, padding=self.reach)
        return F.conv2d(x, self.weight, self.bias, padding=self.kernel // 2) if self.kernel else x

    def _filter(self, x: Tensor, padding: int) -> Tensor:
        """x at half the resolution, or at twice, where each value becomes four."""
        channels = x.shape[1]
        taps = self.resample_filter.to(x.dtype).expand(channels, -1, -1, -1)
        if self.resample == "down":
            return F.conv2d(x, taps, stride=2, padding=padding, groups=channels)
        return F.conv_transpose2d(x, 4 * taps, stride=2, padding=padding, groups=channels)


def group_norm(channels: int, eps: float) -> nn.GroupNorm:
    """Up to 32 groups of at least four channels."""
    return nn.GroupNorm(min(32, max(1, channels // 4)), channels, eps)


@dataclass(frozen=True)
class BlockStyle:
    """What all blocks of a network have in common.

    embedding: channels of the embedding. taps: of the resampling filter. eps: of the normalisations. skip_scale: what a
    sum with the residual branch is multiplied by. scale_shift: whether the embedding scales the map too. projected:
    whether the residual branch of a block that resamples has a convolution. head_channels: None for one head.
    """

    embedding: int
    dropout: float
    taps: Sequence[float]
    eps: float
    skip_scale: float
    scale_shift: bool = False
    projected: bool = True
    head_channels: int | None = None


class Block(nn.Module):
    """A residual block (BigGAN's), conditioned by the embedding, with self-attention after it where asked for."""

    def __init__(
        self, style: BlockStyle, channels: int, out: int, *, resample: Resample | None = None, attention: bool = False
    ):
        super().__init__()
        self.style, self.channels, self.out_channels, self.attention = style, channels, out, attention
        self.norm0 = group_norm(channels, style.eps)
        self.conv0 = Convolution(channels, out, 3, resample=resample, taps=style.taps)
        self.affine = nn.Linear(style.embedding, out * (2 if style.scale_shift else 1))
        self.norm1 = group_norm(out, style.eps)
        self.dropout = nn.Dropout(style.dropout)
        self.conv1 = Convolution(out, out, 3)
        self.skip: Convolution | None = None
        if channels != out or resample is not None:
            kernel = 1 if style.projected or channels != out else 0
            self.skip = Convolution(channels, out, kernel, resample=resample, taps=style.taps)
        if attention:
            self.norm2 = group_norm(out, style.eps)
            self.qkv = Convolution(out, 3 * out, 1)
            self.proj = Convolution(out, out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """x: [B, channels, H, W]; embedding: [B, style.embedding]. [B, out, H, W] after the resampling."""
        condition = self.affine(embedding)[:, :, None, None]
        hidden = self.conv0(F.silu(self.norm0(x)))
        if self.style.scale_shift:
            scale, shift = condition.chunk(2, dim=1)
            hidden = self.norm1(hidden) * (1 + scale) + shift
        else:
            hidden = self.norm1(hidden + condition)
        hidden = self.conv1(self.dropout(F.silu(hidden)))
        x = (hidden + (x if self.skip is None else self.skip(x))) * self.style.skip_scale
        return (x + self._attend(x)) * self.style.skip_scale if self.attention else x

    def _attend(self, x: Tensor) -> Tensor:
        """Self-attention over the places of the map. Of three consecutive channels of qkv, one is each's."""
        size, channels, height, width = x.shape
        heads = channels // self.style.head_channels if self.style.head_channels else 1
        parts = self.qkv(self.norm2(x)).reshape(size, heads, channels // heads, 3, height * width)
        query, key, value = (part.mT for part in parts.unbind(3))  # [B, heads, H W, c]
        found = F.scaled_dot_product_attention(query, key, value).mT
        projected: Tensor = self.proj(found.reshape(size, channels, height, width))
        return projected


class PositionalEncoding(nn.Module):
    """Sines and cosines of time [B] at frequencies from 1 down to about 1 / 10,000 (Vaswani et al. 2017).

    sines_first: [sin, cos], else [cos, sin]. to_end: whether the lowest frequency is 1 / 10,000 itself.
    """

    def __init__(self, channels: int, *, sines_first: bool, to_end: bool):
        super().__init__()
        self.channels, self.sines_first, self.to_end = channels, sines_first, to_end

    def forward(self, time: Tensor) -> Tensor:
        """[B, channels]."""
        half = self.channels // 2
        place = torch.arange(half, device=time.device, dtype=torch.float32) / max(half - int(self.to_end), 1)
        angle = time.float()[:, None] * 10_000**-place
        return _waves(angle, self.sines_first)


class FourierEncoding(nn.Module):
    """Sines and cosines of time [B] at random frequencies (Tancik et al. 2020; scale 16, Song et al. 2021)."""

    freqs: Tensor

    def __init__(self, channels: int, *, sines_first: bool):
        super().__init__()
        self.sines_first = sines_first
        self.register_buffer("freqs", 16 * torch.randn(channels // 2))

    def forward(self, time: Tensor) -> Tensor:
        """[B, channels]."""
        return _waves(time.float()[:, None] * (2 * math.pi * self.freqs.float()), self.sines_first)


def _waves(angle: Tensor, sines_first: bool) -> Tensor:
    waves = (angle.sin(), angle.cos()) if sines_first else (angle.cos(), angle.sin())
    return torch.cat(waves, dim=1)
