"""The UNet of lucidrains' `denoising_diffusion_pytorch` 2.x (MIT), written from its names, shapes and output.

A DDPM network (Ho et al. 2020) with normalisation over channels (RMS), attention in every level - linear (Katharopoulos
et al. 2020) or, in the deepest, full - with stored keys and values, a scale and shift by the timestep, and a skip of
the first map to the last. The names of its modules are those of the tensors in the files.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gsd_cli.core.models.ddp_unet_config import CLASS_NAMES, DIFFUSERS_CLASS
from gsd_cli.core.models.edm_layers import PositionalEncoding
from gsd_cli.core.models.network_kind import NetworkKind
from gsd_cli.core.models.own_network import OwnNetwork


class ChannelNorm(nn.Module):
    """Scale the channel vector of each position to a root mean square of 1, then each channel by a weight."""

    def __init__(self, channels: int):
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        return F.normalize(x, dim=1) * self.g * self.g.shape[1] ** 0.5


class ConvLayer(nn.Module):
    """A convolution, normalised, changed by the timestep, then SiLU."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, out, 3, padding=1)
        self.norm = ChannelNorm(out)
        self.dropout = nn.Dropout(0.0)

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        """x: [B, C, H, W]; scale, shift: [B, out, 1, 1]."""
        x = self.norm(self.proj(x))
        if scale is not None and shift is not None:
            x = x * (scale + 1) + shift
        output: Tensor = self.dropout(F.silu(x))
        return output


class Residual(nn.Module):
    """Two convolutions, the first changed by the timestep, next to the identity or a 1 x 1 convolution."""

    def __init__(self, channels: int, out: int, time: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(time, 2 * out))
        self.block1, self.block2 = ConvLayer(channels, out), ConvLayer(out, out)
        self.res_conv = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x: [B, C, H, W]; time: [B, time]."""
        scale, shift = self.mlp(time)[:, :, None, None].chunk(2, 1)
        output: Tensor = self.block2(self.block1(x, scale, shift)) + self.res_conv(x)
        return output


class Attention(nn.Module):
    """Attention over positions and `stored` learnt keys and values, added to its input."""

    def __init__(self, channels: int, full: bool, heads: int, width: int, stored: int):
        super().__init__()
        self.full, self.heads, inner = full, heads, heads * width
        self.norm = ChannelNorm(channels)
        self.mem_kv = nn.Parameter(torch.randn(2, heads, *((stored, width) if full else (width, stored))))
        self.to_qkv = nn.Conv2d(channels, 3 * inner, 1, bias=False)
        out = nn.Conv2d(inner, channels, 1)
        self.to_out = out if full else nn.Sequential(out, ChannelNorm(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        q, k, v = self.to_qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).unbind(1)  # [B, heads, c, N]
        stored = self.mem_kv.mT if self.full else self.mem_kv
        more_k, more_v = stored[:, None].expand(2, x.shape[0], -1, -1, -1)
        k, v = torch.cat([more_k, k], 3), torch.cat([more_v, v], 3)
        if self.full:
            found = F.scaled_dot_product_attention(q.mT, k.mT, v.mT).mT
        else:
            context = k.softmax(3) @ v.mT  # [B, heads, c, c]
            found = context.mT @ (q.softmax(2) * q.shape[2] ** -0.5)
        output: Tensor = self.to_out(found.flatten(1, 2).unflatten(2, x.shape[2:])) + x
        return output


class DdpUNet(OwnNetwork):
    """The network of a config: in_channels, out_channels, sample_size, time_width (of the sines), widths (of the first
    map, then of each level's output), attentions ([full, heads, channels per head, stored keys] of each level, then of
    the middle)."""

    def __init__(self, config: dict[str, Any]):
        super().__init__(config)
        widths, time = config["widths"], 4 * config["time_width"]
        attentions = config["attentions"]
        self.init_conv = nn.Conv2d(config["in_channels"], widths[0], 7, padding=3)
        # files do not hold the longest period of the sines: it is the library's default
        sines = PositionalEncoding(config["time_width"], sines_first=True, to_end=True)
        self.time_mlp = nn.Sequential(sines, nn.Linear(time // 4, time), nn.GELU(), nn.Linear(time, time))
        levels = list(zip(widths[:-1], widths[1:], attentions[:-1], strict=True))
        self.downs: Any = nn.ModuleList()
        self.ups: Any = nn.ModuleList()
        for k, (width, out, attention) in enumerate(levels):
            last = k == len(levels) - 1
            change = nn.Conv2d(width, out, 3, padding=1) if last else _halve(width, out)
            pair = Residual(width, width, time), Residual(width, width, time)
            self.downs.append(nn.ModuleList([*pair, Attention(width, *attention), change]))
        for k, (width, out, attention) in enumerate(reversed(levels)):
            last = k == len(levels) - 1
            change = nn.Conv2d(out, width, 3, padding=1) if last else _double(out, width)
            pair = Residual(out + width, out, time), Residual(out + width, out, time)
            self.ups.append(nn.ModuleList([*pair, Attention(out, *attention), change]))
        self.mid_block1 = Residual(widths[-1], widths[-1], time)
        self.mid_attn = Attention(widths[-1], *attentions[-1])
        self.mid_block2 = Residual(widths[-1], widths[-1], time)
        self.final_res_block = Residual(2 * widths[0], widths[0], time)
        self.final_conv = nn.Conv2d(widths[0], config["out_channels"], 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """x: [B, C, H, W]; t: [B], fractions are kept. Returns [B, out_channels, H, W]."""
        time = self.time_mlp(t)
        first, skips, hidden = self.descend(x, time)
        for block1, block2, attention, change in self.ups:
            hidden = self.run(block1, torch.cat([hidden, skips.pop()], 1), time)
            hidden = self.run(attention, self.run(block2, torch.cat([hidden, skips.pop()], 1), time))
            hidden = change(hidden)
        hidden = self.run(self.final_res_block, torch.cat([hidden, first], 1), time)
        output: Tensor = self.final_conv(hidden)
        return output

    def descend(self, x: Tensor, time: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """The first map, the two skips of every level, and the output of the middle."""
        first = hidden = self.init_conv(x)
        skips: list[Tensor] = []
        for block1, block2, attention, change in self.downs:
            skips.append(self.run(block1, hidden, time))
            skips.append(self.run(attention, self.run(block2, skips[-1], time)))
            hidden = change(skips[-1])
        hidden = self.run(self.mid_attn, self.run(self.mid_block1, hidden, time))
        return first, skips, self.run(self.mid_block2, hidden, time)


def _halve(width: int, out: int) -> nn.Sequential:
    """Squares of 2 x 2 positions to channels, then a 1 x 1 convolution."""
    return nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * width, out, 1))


def _double(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(width, out, 3, padding=1))


def encode(net: Any, x: Tensor, t: Tensor, full: bool = False) -> list[Tensor]:
    """Each level's last map, the middle's last; of these the first has full resolution, so `full` adds nothing."""
    _, skips, middle = net.descend(x, net.time_mlp(t))
    maps = [*skips[1::2], middle]
    return maps if full or len(maps) <= 2 else maps[1:]


def output_layers(net: Any) -> tuple[str, ...]:
    """The names of the last level and of the output layers."""
    return f"ups.{len(net.ups) - 1}", "final_res_block", "final_conv"


DDP_UNET = NetworkKind(
    diffusers_class=DIFFUSERS_CLASS,
    class_names=CLASS_NAMES,
    shape=lambda net: (net.config.in_channels, net.config.sample_size, net.config.sample_size),
    classes=lambda net: None,
    call=lambda net, x, t, condition: net(x, t),
    encode=encode,
    bottleneck=lambda net: net.mid_block2,
    output_layers=output_layers,
    own_class=DdpUNet,
)
