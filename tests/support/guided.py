"""guided-diffusion's UNet, small, written over again with its own names: what its files hold and what they compute."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUPS = 32


class Residual(nn.Module):
    """norm, SiLU, (resize), conv; plus or shifted by the timestep; norm, SiLU, conv."""

    def __init__(self, channels: int, out: int, time: int, shifts: bool, resize: str = "") -> None:
        super().__init__()
        self.shifts, self.resize = shifts, resize
        self.in_layers = nn.ModuleDict(
            {"0": nn.GroupNorm(GROUPS, channels), "2": nn.Conv2d(channels, out, 3, padding=1)}
        )
        self.emb_layers = nn.ModuleDict({"1": nn.Linear(time, 2 * out if shifts else out)})
        self.out_layers = nn.ModuleDict({"0": nn.GroupNorm(GROUPS, out), "3": nn.Conv2d(out, out, 3, padding=1)})
        if channels != out:
            self.skip_connection = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = F.silu(self.in_layers["0"](x))
        if self.resize:
            h, x = (F.avg_pool2d(y, 2) if self.resize == "down" else F.interpolate(y, scale_factor=2) for y in (h, x))
        h, e = self.in_layers["2"](h), self.emb_layers["1"](F.silu(time))[:, :, None, None]
        if self.shifts:
            scale, shift = e.chunk(2, 1)
            h = self.out_layers["0"](h) * (1 + scale) + shift
        else:
            h = self.out_layers["0"](h + e)
        return self.out_layers["3"](F.silu(h)) + (self.skip_connection(x) if hasattr(self, "skip_connection") else x)


class Attention(nn.Module):
    """joint: all queries, then all keys, then all values; else those of each head together."""

    def __init__(self, channels: int, heads: int, joint: bool) -> None:
        super().__init__()
        self.heads, self.joint = channels // heads, joint
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv, self.proj_out = nn.Conv1d(channels, 3 * channels, 1), nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, _: Tensor) -> Tensor:
        rows = self.qkv(self.norm(x).flatten(2))
        if self.joint:
            q, k, v = (part.unflatten(1, (self.heads, -1)) for part in rows.chunk(3, 1))
        else:
            q, k, v = rows.unflatten(1, (self.heads, -1)).chunk(3, 2)
        weights = (torch.einsum("bhct,bhcs->bhts", q, k) / q.shape[2] ** 0.5).softmax(-1)
        found = torch.einsum("bhts,bhcs->bhct", weights, v).flatten(1, 2)
        return x + self.proj_out(found).unflatten(2, x.shape[2:])


class Resize(nn.Module):
    def __init__(self, channels: int, down: bool) -> None:
        super().__init__()
        self.down = down
        conv = nn.Conv2d(channels, channels, 3, padding=1, stride=2 if down else 1)
        self.add_module("op" if down else "conv", conv)

    def forward(self, x: Tensor, _: Tensor) -> Tensor:
        return self.op(x) if self.down else self.conv(F.interpolate(x, scale_factor=2))


class GuidedUNet(nn.Module):
    """widths of the levels; attends: the levels with attention; residual: whether residual blocks change the side."""

    def __init__(
        self, channels: int = 1, out: int = 2, widths: tuple[int, ...] = (32, 64), attends: tuple[int, ...] = (1,),
        heads: int = 16, joint: bool = False, residual: bool = True, shifts: bool = True, classes: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        time = 4 * widths[0]
        self.width = widths[0]
        self.time_embed = nn.Sequential(nn.Linear(self.width, time), nn.SiLU(), nn.Linear(time, time))
        if classes:
            self.label_emb = nn.Embedding(classes, time)
        self.input_blocks, self.output_blocks = nn.ModuleList(), nn.ModuleList()
        self.input_blocks.append(nn.ModuleList([nn.Conv2d(channels, widths[0], 3, padding=1)]))
        skips, now = [widths[0]], widths[0]

        def block(before: int, after: int, level: int) -> list[nn.Module]:
            found: list[nn.Module] = [Residual(before, after, time, shifts)]
            return found + ([Attention(after, heads, joint)] if level in attends else [])

        def change(width: int, down: bool) -> nn.Module:
            resize = "down" if down else "up"
            return Residual(width, width, time, shifts, resize) if residual else Resize(width, down)

        for level, width in enumerate(widths):
            for _ in range(2):
                self.input_blocks.append(nn.ModuleList(block(now, width, level)))
                now = width
                skips.append(now)
            if level < len(widths) - 1:
                self.input_blocks.append(nn.ModuleList([change(now, True)]))
                skips.append(now)
        middle = [Residual(now, now, time, shifts), Attention(now, heads, joint), Residual(now, now, time, shifts)]
        self.middle_block = nn.ModuleList(middle)
        for level, width in reversed(list(enumerate(widths))):
            for k in range(3):
                layers = block(now + skips.pop(), width, level)
                now = width
                self.output_blocks.append(nn.ModuleList(layers + ([change(now, False)] if level and k == 2 else [])))
        self.out = nn.ModuleDict({"0": nn.GroupNorm(GROUPS, now), "2": nn.Conv2d(now, out, 3, padding=1)})

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        half = self.width // 2
        angles = t[:, None].float() * torch.exp(-torch.arange(half) / half * torch.log(torch.tensor(10_000.0)))
        time = self.time_embed(torch.cat([angles.cos(), angles.sin()], 1))
        if labels is not None:
            time = time + self.label_emb(labels)
        h, skips = self.input_blocks[0][0](x), []
        skips.append(h)
        for layers in list(self.input_blocks)[1:]:
            for layer in layers:
                h = layer(h, time)
            skips.append(h)
        for layer in self.middle_block:
            h = layer(h, time)
        for layers in self.output_blocks:
            h = torch.cat([h, skips.pop()], 1)
            for layer in layers:
                h = layer(h, time)
        return self.out["2"](F.silu(self.out["0"](h)))
