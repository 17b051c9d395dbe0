"""Which configs of diffusers' DiTTransformer2DModel can be teachers. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gsd_cli.base.errors import GsdError
from gsd_cli.core.models.config_check import LARGEST, MAX_SIDE, require_channels

DIFFUSERS_CLASS = "DiTTransformer2DModel"
CLASS_NAMES = (DIFFUSERS_CLASS, "Transformer2DModel")  # the second is the name in facebook/DiT-XL-2-256
_HINT = "give a class-conditional DiT, as facebook/DiT-XL-2-256"
_FOREIGN = ("cross_attention_dim", "double_self_attention", "num_vector_embeds", "caption_channels")
"""Keys of a Transformer2DModel that a DiT leaves empty."""


def require_usable(folder: Path, config: dict[str, Any]) -> None:
    """Raise GsdError (exit 3) for a config that is not of a class-conditional DiT (Peebles and Xie 2023)."""
    if (norm := config.get("norm_type", "ada_norm_zero")) != "ada_norm_zero":
        raise GsdError(f"{folder} is no DiT: its norm_type is {norm!r}", hint=_HINT)
    if foreign := [key for key in _FOREIGN if config.get(key)]:
        raise GsdError(f"{folder} is no DiT: it has a {foreign[0]}", hint=_HINT)
    channels = config.get("in_channels", 4)  # the defaults of diffusers
    out = config.get("out_channels")
    require_channels(folder, channels, channels if out is None else out)
    sizes = {
        "num_embeds_ada_norm": (config.get("num_embeds_ada_norm", 1000), LARGEST),
        "num_layers": (config.get("num_layers", 28), LARGEST),
        "sample_size": (config.get("sample_size", 32), MAX_SIDE),
        "patch_size": (config.get("patch_size", 2), MAX_SIDE),
    }
    for key, (value, largest) in sizes.items():
        if not isinstance(value, int) or not 0 < value <= largest:
            raise GsdError(f"{folder} names a {key} of {value!r}", hint=f"1 to {largest:,} is needed; {_HINT}")
    side, patch = sizes["sample_size"][0], sizes["patch_size"][0]
    if side % patch:
        raise GsdError(f"{folder}: a side of {side} is not a whole number of patches of {patch}", hint=_HINT)
