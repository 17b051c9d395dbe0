"""Which configs of diffusers' SD3Transformer2DModel can be teachers, and the texts that they take. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gsd_cli.base.errors import GsdError
from gsd_cli.core.models.config_check import require_channels, require_patches, require_sizes, with_defaults
from gsd_cli.core.models.text_sizes import TextSizes

DIFFUSERS_CLASS = "SD3Transformer2DModel"
CLASS_NAMES = (DIFFUSERS_CLASS,)
DEFAULTS = {
    "sample_size": 128, "patch_size": 2, "num_layers": 18, "attention_head_dim": 64, "num_attention_heads": 18,
    "joint_attention_dim": 4096, "caption_projection_dim": 1152, "pooled_projection_dim": 2048,
    "pos_embed_max_size": 96,
}  # fmt: skip
"""diffusers' own, for keys that a config leaves out."""
_HINT = "give a Stable Diffusion 3 or 3.5, or a fine-tuning of one"


def text_sizes(config: Mapping[str, Any]) -> TextSizes:
    """The sizes of a token's vector and of the vector of the whole text. config: of a usable network."""
    sizes = with_defaults(config, DEFAULTS)
    return TextSizes(int(sizes["joint_attention_dim"]), int(sizes["pooled_projection_dim"]))


def require_usable(folder: Path, config: dict[str, Any]) -> None:
    """Raise GsdError (exit 3) for a config that is not of an image denoiser as Esser et al. (2024) describe it."""
    channels = config.get("in_channels", 16)
    out = config.get("out_channels", 16)
    require_channels(folder, channels, channels if out is None else out)
    sizes = with_defaults(config, DEFAULTS)
    require_sizes(folder, sizes, _HINT)
    require_patches(folder, sizes, _HINT)
    patches = sizes["sample_size"] // sizes["patch_size"]
    if patches > sizes["pos_embed_max_size"]:
        raise GsdError(f"{folder}: {patches} patches per side are more than its embedding of places", hint=_HINT)
