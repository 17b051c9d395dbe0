"""The networks that `gsd prepare --fit-teacher` can train, as data."""

from __future__ import annotations

from typing import Any

ARCHITECTURES: dict[str, dict[str, tuple[int, ...]]] = {
    "tiny": {"channels": (8, 16), "attention": ()},
    "small": {"channels": (24, 32, 64, 96), "attention": ()},
    "base": {"channels": (64, 128, 256, 256), "attention": (1,)},
}
"""Channels per level, and the levels with self-attention."""


def build_unet(architecture: str, size: int, channels: int, classes: int | None = None) -> Any:
    """A UNet2DModel with fresh weights for `channels` x `size` x `size` images, of `classes` classes if any."""
    from diffusers import UNet2DModel

    widths, attention = ARCHITECTURES[architecture].values()
    levels = range(len(widths))
    return UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=2 if architecture == "base" else 1,
        block_out_channels=widths,
        norm_num_groups=8,
        attention_head_dim=32 if attention else None,
        num_class_embeds=classes,
        down_block_types=tuple("AttnDownBlock2D" if i in attention else "DownBlock2D" for i in levels),
        up_block_types=tuple("AttnUpBlock2D" if i in attention else "UpBlock2D" for i in reversed(levels)),
    )
