"""Which configs of diffusers' SD3Transformer2DModel can be teachers, and the texts that they take. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gsd_cli.base.errors import GsdError
from gsd_cli.core.models.config_check import LARGEST, MAX_SIDE, require_channels
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
    token, whole = (int(_read(config, key)) for key in ("joint_attention_dim", "pooled_projection_dim"))
    return TextSizes(token, whole)


def require_usable(folder: Path, config: dict[str, Any]) -> None:
    """Raise GsdError (exit 3) for a config that is not of an image denoiser as Esser et al. (2024) describe it."""
    channels = config.get("in_channels", 16)
    out = config.get("out_channels", 16)
    require_channels(folder, channels, channels if out is None else out)
    for key in DEFAULTS:
        value, largest = _read(config, key), MAX_SIDE if key.endswith("size") else LARGEST
        if not isinstance(value, int) or not 0 < value <= largest:
            raise GsdError(f"{folder} names a {key} of {value!r}", hint=f"1 to {largest:,} is needed; {_HINT}")
    side, patch = _read(config, "sample_size"), _read(config, "patch_size")
    if side % patch:
        raise GsdError(f"{folder}: a side of {side} is not a whole number of patches of {patch}", hint=_HINT)
    if side // patch > _read(config, "pos_embed_max_size"):
        raise GsdError(f"{folder}: {side // patch} patches per side are more than its embedding of places", hint=_HINT)


def _read(config: Mapping[str, Any], key: str) -> Any:
    return config.get(key, DEFAULTS[key])
