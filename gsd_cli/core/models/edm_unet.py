"""The networks of EDM: DDPM++ and NCSN++ (`SongUNet`) and ADM (`DhariwalUNet`), of Karras et al. (2022), appendix F.

Written from the paper (which takes them from Song et al. 2021 and from Dhariwal and Nichol 2021) and from the names and
shapes of the tensors in the published files, so that these can be loaded.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gsd_cli.core.models.edm_config import DHARIWAL, HEAD_CHANNELS, SONG, EdmConfig
from gsd_cli.core.models.edm_layers import (
    Block,
    BlockStyle,
    Convolution,
    FourierEncoding,
    PositionalEncoding,
    group_norm,
)
from gsd_cli.core.models.own_network import Own, OwnNetwork


class EdmUNet(OwnNetwork, ABC):
    """A U-Net of residual blocks with a skip from every module of the encoder to a block of the decoder.

    A subclass fills `enc` and `dec` and embeds time and class. config: the content of its config.json, `sizes` the same
    checked. Raises GsdError (exit 3) for a wrong one.
    """

    def __init__(self, config: dict[str, Any]):
        name = type(self).__name__
        sizes = EdmConfig.from_json({**config, "_class_name": name})
        super().__init__(sizes.to_json(name))
        self.sizes = sizes
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()

    def half(self: Own) -> Own:
        """Round the weights to float16, but no buffers: rounded frequencies of an encoding would be others."""
        for parameter in self.parameters():
            parameter.data = parameter.data.half()
        return self

    def side(self, level: int) -> str:
        """The start of the names at a level: `32x32`."""
        return "x".join([str(self.sizes.sample_size >> level)] * 2)

    @abstractmethod
    def embed(self, time: Tensor, labels: Tensor) -> Tensor:
        """The embedding [B, E] of time [B] and one-hot classes [B, K], of which a row may be zero."""

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        """x: [B, C, H, W]; time: [B]; labels: int64 [B], or None for no class. The raw output [B, C, H, W]."""
        embedding = self._embed(x, time, labels)
        skips = self._encode(x, embedding)
        x = skips[-1]
        for module in self.dec.values():
            if not isinstance(module, Block):
                break
            if module.channels != x.shape[1]:
                x = torch.cat([x, skips.pop()], dim=1)
            x = self.run(module, x, embedding)
        norm, last = self.head
        output: Tensor = last(F.silu(norm(x)))
        return output

    def encode(self, x: Tensor, time: Tensor) -> dict[str, Tensor]:
        """The outputs of the encoder's modules and of the two blocks between encoder and decoder, by name; no class."""
        embedding = self._embed(x, time, None)
        maps = dict(zip(self._encoder_names(), self._encode(x, embedding), strict=True))
        x = list(maps.values())[-1]
        for name in self.middle:
            x = maps[name] = self.run(self.dec[name], x, embedding)
        return maps

    @property
    @abstractmethod
    def head(self) -> tuple[nn.Module, nn.Module]:
        """The last normalisation and the last convolution."""

    @property
    def middle(self) -> tuple[str, str]:
        """The names, in `dec`, of the two blocks between encoder and decoder."""
        side = self.side(len(self.sizes.channel_mult) - 1)
        return f"{side}_in0", f"{side}_in1"

    def _embed(self, x: Tensor, time: Tensor, labels: Tensor | None) -> Tensor:
        classes = self.sizes.num_class_embeds
        if labels is None or not classes:
            shown = x.new_zeros(x.shape[0], classes)
        else:
            shown = F.one_hot(labels, classes).to(x.dtype)
        return self.embed(time.expand(x.shape[0]), shown)

    def _encoder_names(self) -> list[str]:
        return [name for name in self.enc if not name.endswith("_aux_residual")]

    def _encode(self, x: Tensor, embedding: Tensor) -> list[Tensor]:
        """The outputs of the encoder's modules; each is a skip. A residual changes the output before it."""
        given = x
        maps: list[Tensor] = []
        for name, module in self.enc.items():
            if name.endswith("_aux_residual"):
                x = given = maps[-1] = (x + module(given)) / math.sqrt(2)
                continue
            x = self.run(module, x, embedding) if isinstance(module, Block) else module(x)
            maps.append(x)
        return maps

    def _build(self, style: BlockStyle, *, everywhere: bool) -> int:
        """Fill `enc`, and `dec` but for its last layers; returns the channels of the last block.

        everywhere: whether every block of the decoder has self-attention where its resolution has any, else the last.
        """
        config, skips = self.sizes, []
        channels = given = config.in_channels
        for level, multiple in enumerate(config.channel_mult):
            side, out = self.side(level), multiple * config.model_channels
            if level == 0:
                self.enc[f"{side}_conv"] = Convolution(channels, config.model_channels, 3)
                channels = config.model_channels
            else:
                self.enc[f"{side}_down"] = Block(style, channels, channels, resample="down")
                if config.encoder_type == "residual":
                    self.enc[f"{side}_aux_residual"] = Convolution(
                        given, channels, 3, resample="down", taps=style.taps, fused=True
                    )
                    given = channels
            skips.append(channels)
            for k in range(config.num_blocks):
                attention = config.sample_size >> level in config.attn_resolutions
                self.enc[f"{side}_block{k}"], channels = Block(style, channels, out, attention=attention), out
                skips.append(channels)
        for level, multiple in reversed(list(enumerate(config.channel_mult))):
            side, out = self.side(level), multiple * config.model_channels
            if level == len(config.channel_mult) - 1:
                self.dec[f"{side}_in0"] = Block(style, channels, channels, attention=True)
                self.dec[f"{side}_in1"] = Block(style, channels, channels)
            else:
                self.dec[f"{side}_up"] = Block(style, channels, channels, resample="up")
            for k in range(config.num_blocks + 1):
                here = config.sample_size >> level in config.attn_resolutions
                attention = here and (everywhere or k == config.num_blocks)
                self.dec[f"{side}_block{k}"] = Block(style, channels + skips.pop(), out, attention=attention)
                channels = out
        return channels


class SongUNet(EdmUNet):
    """DDPM++ (positional encoding, standard encoder) and NCSN++ (Fourier encoding, residual encoder)."""

    def __init__(self, config: dict[str, Any]):
        super().__init__(config)
        sizes = self.sizes
        noise = sizes.model_channels * sizes.channel_mult_noise
        width = sizes.model_channels * sizes.channel_mult_emb
        self.map_noise: nn.Module = (
            PositionalEncoding(noise, sines_first=True, to_end=True)
            if sizes.embedding_type == "positional"
            else FourierEncoding(noise, sines_first=True)
        )
        if sizes.num_class_embeds:
            self.map_label = nn.Linear(sizes.num_class_embeds, noise)
        if sizes.augment_dim:
            self.map_augment = nn.Linear(sizes.augment_dim, noise, bias=False)
        self.map_layer0, self.map_layer1 = nn.Linear(noise, width), nn.Linear(width, width)
        style = BlockStyle(width, sizes.dropout, sizes.resample_filter, eps=1e-6, skip_scale=math.sqrt(0.5))
        channels = self._build(style, everywhere=False)
        self.dec[f"{self.side(0)}_aux_norm"] = group_norm(channels, 1e-6)
        self.dec[f"{self.side(0)}_aux_conv"] = Convolution(channels, sizes.out_channels, 3)

    @property
    def head(self) -> tuple[nn.Module, nn.Module]:
        """As in the base class."""
        return self.dec[f"{self.side(0)}_aux_norm"], self.dec[f"{self.side(0)}_aux_conv"]

    def embed(self, time: Tensor, labels: Tensor) -> Tensor:
        """As in the base class."""
        noise = self.map_noise(time).to(labels.dtype)
        if self.sizes.num_class_embeds:
            noise = noise + self.map_label(labels * math.sqrt(self.sizes.num_class_embeds))
        if self.sizes.augment_dim:  # images are not augmented here: its weights get a gradient of zero
            noise = noise + self.map_augment(labels.new_zeros(labels.shape[0], self.sizes.augment_dim))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(noise))))


class DhariwalUNet(EdmUNet):
    """ADM, as EDM trained it for ImageNet-64."""

    def __init__(self, config: dict[str, Any]):
        super().__init__(config)
        sizes = self.sizes
        noise, width = sizes.model_channels, sizes.model_channels * sizes.channel_mult_emb
        self.map_noise = PositionalEncoding(noise, sines_first=False, to_end=False)
        if sizes.augment_dim:
            self.map_augment = nn.Linear(sizes.augment_dim, noise, bias=False)
        self.map_layer0, self.map_layer1 = nn.Linear(noise, width), nn.Linear(width, width)
        if sizes.num_class_embeds:
            self.map_label = nn.Linear(sizes.num_class_embeds, width, bias=False)
        style = BlockStyle(
            width, sizes.dropout, (1, 1), eps=1e-5, skip_scale=1, scale_shift=True, projected=False,
            head_channels=HEAD_CHANNELS,
        )  # fmt: skip
        channels = self._build(style, everywhere=True)
        self.out_norm, self.out_conv = group_norm(channels, 1e-5), Convolution(channels, sizes.out_channels, 3)

    @property
    def head(self) -> tuple[nn.Module, nn.Module]:
        """As in the base class."""
        return self.out_norm, self.out_conv

    def embed(self, time: Tensor, labels: Tensor) -> Tensor:
        """As in the base class."""
        noise = self.map_noise(time).to(labels.dtype)
        if self.sizes.augment_dim:
            noise = noise + self.map_augment(labels.new_zeros(labels.shape[0], self.sizes.augment_dim))
        found = self.map_layer1(F.silu(self.map_layer0(noise)))
        return F.silu(found + self.map_label(labels) if self.sizes.num_class_embeds else found)


CLASSES: dict[str, type[EdmUNet]] = {SONG: SongUNet, DHARIWAL: DhariwalUNet}
