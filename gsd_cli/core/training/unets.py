"""The networks of `gsd prepare --fit-teacher`: diffusers' UNets of three sizes, with classes, with texts or without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class _Size:
    """Channels per level; the levels with self-attention; those that attend to a text, if there are texts."""

    channels: tuple[int, ...]
    attention: tuple[int, ...]
    text: tuple[int, ...]
    layers: int = 1


SIZES = {
    "tiny": _Size((8, 16), (), (1,)),
    "small": _Size((24, 32, 64, 96), (), (2, 3)),
    "base": _Size((64, 128, 256, 256), (1,), (1, 2, 3), layers=2),
}
HEADS = 4
"""Of the attention to a text."""


def build_unet(
    architecture: str, size: int, channels: int, classes: int | None = None, text: int | None = None
) -> Any:  # fmt: skip
    """A network with random weights for images [channels, size, size].

    A UNet2DModel, conditioned on `classes` if given; or a UNet2DConditionModel, which attends to tokens of `text`
    numbers.
    """
    import diffusers

    it = SIZES[architecture]
    levels = range(len(it.channels))
    common: dict[str, Any] = {
        "sample_size": size,
        "in_channels": channels,
        "out_channels": channels,
        "layers_per_block": it.layers,
        "block_out_channels": it.channels,
        "norm_num_groups": 8,
    }
    if text is None:
        return diffusers.UNet2DModel(
            **common,
            attention_head_dim=32 if it.attention else None,
            num_class_embeds=classes,
            **_blocks("Attn", it.attention, levels),
        )
    return diffusers.UNet2DConditionModel(
        **common,
        cross_attention_dim=text,
        attention_head_dim=HEADS,  # in this class it is the number of heads
        **_blocks("CrossAttn", it.text, levels),
    )


def _blocks(kind: str, attentive: tuple[int, ...], levels: range) -> dict[str, tuple[str, ...]]:
    """The names of the blocks, of which those at the levels `attentive` are of a kind."""
    names = [kind if level in attentive else "" for level in levels]
    return {
        "down_block_types": tuple(f"{name}DownBlock2D" for name in names),
        "up_block_types": tuple(f"{name}UpBlock2D" for name in reversed(names)),
    }
