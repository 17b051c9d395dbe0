"""Which configs of diffusers' UNet2DModel can be teachers. No torch: a wrong teacher is refused before it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gsd_cli.base.errors import GsdError
from gsd_cli.core.models.config_check import MAX_SIDE, require_channels

DIFFUSERS_CLASS = "UNet2DModel"
CLASS_NAMES = (DIFFUSERS_CLASS, "UNetUnconditionalModel")  # the second is the name in old diffusers
TIME_EMBEDDINGS = ("positional", "fourier")
"""Of a timestep, and of the logarithm of a noise level (NCSN++, Song et al. 2021)."""
SKIP_CHANNELS = 3
"""The channels of the images that NCSN++'s blocks pass on, a number in diffusers' code."""
_HINT = "give a UNet2DModel in diffusers format, unconditional or with num_class_embeds"


def takes_noise_levels(config: dict[str, Any]) -> bool:
    """Whether the network of a config.json is given noise levels, rather than timesteps."""
    return config.get("time_embedding_type") == "fourier"


def require_usable(folder: Path, config: dict[str, Any]) -> None:
    """Raise GsdError (exit 3) for a config that is not of an image denoiser conditioned on timesteps and classes."""
    channels, out = config.get("in_channels", 3), config.get("out_channels", 3)  # the defaults of diffusers
    require_channels(folder, channels, out)
    if config.get("class_embed_type") is not None:
        raise GsdError(f"{folder} is conditioned by {config['class_embed_type']!r} embeddings", hint=_HINT)
    if (kind := config.get("time_embedding_type", "positional")) not in TIME_EMBEDDINGS:
        raise GsdError(f"{folder} takes neither timesteps nor noise levels ({kind} time embedding)", hint=_HINT)
    if takes_noise_levels(config) and out != channels:
        raise GsdError(f"{folder}: {channels} channels in, {out} out", hint="a score SDE predicts no variance")
    if channels != SKIP_CHANNELS and "Skip" in f"{config.get('down_block_types')} {config.get('up_block_types')}":
        raise GsdError(
            f"{folder}: a network of Skip blocks with {channels} channels",
            hint=f"diffusers builds these blocks for images of {SKIP_CHANNELS} channels",
        )
    require_size(folder, config)


def require_size(folder: Path, config: dict[str, Any]) -> None:
    """Raise GsdError (exit 3) unless a network's config names the size of its images."""
    size = config.get("sample_size")
    sides = [size] * 2 if isinstance(size, int) else size
    if not isinstance(sides, list) or len(sides) != 2 or not all(isinstance(n, int) and n > 0 for n in sides):
        raise GsdError(f"{folder} names no sample_size", hint="set it in config.json: the side of the images")
    if max(sides) > MAX_SIDE:
        raise GsdError(
            f"{folder} names a sample_size of {size}", hint=f"images have at most {MAX_SIDE} pixels per side"
        )
