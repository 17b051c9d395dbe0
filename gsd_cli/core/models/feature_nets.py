"""Small image classifiers of independent designs, by name: their penultimate layers are features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

RESIDUAL_WIDTHS = (32, 64, 128)
CONVNEXT_WIDTHS, CONVNEXT_DEPTHS = (24, 48, 64), (2, 2, 1)


class FeatureNet(nn.Module):
    """A classifier in stages: the last map, pooled, is the feature vector; a linear head gives the classes.

    A subclass sets `stem` (its first layer is a convolution), `stages`, `head` and `dim`, the size of a vector.
    """

    architecture: ClassVar[str]
    """Its name in gsd.json and for --features-net."""
    stem: nn.Sequential
    stages: nn.ModuleList
    head: nn.Linear
    dim: int

    def __init__(self, channels: int, classes: int):
        super().__init__()

    def maps(self, images: Tensor) -> list[Tensor]:
        """images [B, C, H, W] in [-1, 1] to the maps of the stages [B, c, h, w], from fine to coarse."""
        hidden, maps = self.stem(images), []
        for stage in self.stages:
            hidden = stage(hidden)
            maps.append(hidden)
        return maps

    def features(self, images: Tensor) -> Tensor:
        """The penultimate layer: [B, dim]."""
        return self.maps(images)[-1].mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Class logits [B, classes]."""
        logits: Tensor = self.head(self.features(images))
        return logits


class ResidualNet(FeatureNet):
    """3 x 3 convolutions with batch norm and ReLU, max pooling, one residual block per stage; maps of 1/2, 1/4, 1/8."""

    architecture = "residual"

    def __init__(self, channels: int, classes: int, widths: tuple[int, ...] = RESIDUAL_WIDTHS):
        super().__init__(channels, classes)
        self.stem = _conv(channels, widths[0])
        self.stages = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), _conv(before, after), _Residual(after))
            for before, after in zip((widths[0], *widths), widths, strict=False)
        )
        self.head = nn.Linear(widths[-1], classes)
        self.dim = widths[-1]


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(_conv(width, width), _conv(width, width))

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = hidden + self.body(hidden)
        return out


def _conv(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU())


class ConvNeXtNet(FeatureNet):
    """A small ConvNeXt (Liu et al., CVPR 2022): 2 x 2 patches, depthwise 5 x 5 convolutions, layer norm, GELU.

    Shares no kind of layer with `ResidualNet` except the head; maps of 1/2, 1/4, 1/8, normalised over channels.
    """

    architecture = "convnext"

    def __init__(self, channels: int, classes: int):
        super().__init__(channels, classes)
        widths = CONVNEXT_WIDTHS
        self.stem = nn.Sequential(nn.Conv2d(channels, widths[0], 2, stride=2), _ChannelNorm(widths[0]))
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 2, stride=2) if i else nn.Identity(),
                *(_Depthwise(after) for _ in range(depth)),
                _ChannelNorm(after),
            )
            for i, (before, after, depth) in enumerate(zip((0, *widths), widths, CONVNEXT_DEPTHS, strict=False))
        )
        self.head = nn.Linear(widths[-1], classes)
        self.dim = widths[-1]


class _Depthwise(nn.Module):
    """ConvNeXt's block: positions are mixed within channels, then channels within positions."""

    def __init__(self, width: int):
        super().__init__()
        self.spatial = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.channels = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        mixed: Tensor = self.channels(self.spatial(hidden).permute(0, 2, 3, 1))  # [B, H, W, C]
        return hidden + mixed.permute(0, 3, 1, 2)


class _ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of maps [B, C, H, W]."""

    def forward(self, hidden: Tensor) -> Tensor:
        normed: Tensor = super().forward(hidden.permute(0, 2, 3, 1))
        return normed.permute(0, 3, 1, 2)


ARCHITECTURES: Mapping[str, type[FeatureNet]] = {net.architecture: net for net in (ResidualNet, ConvNeXtNet)}


def read_sizes(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """Image channels and number of classes, read from the weights of any architecture. Raises KeyError, IndexError."""
    return tensors["stem.0.weight"].shape[1], tensors["head.weight"].shape[0]
