"""Which configs of diffusers' DiTTransformer2DModel can be teachers. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gsd_cli.base.errors import GsdError
from gsd_cli.core.models.config_check import require_channels, require_patches, require_sizes, with_defaults

DIFFUSERS_CLASS = "DiTTransformer2DModel"
CLASS_NAMES = (DIFFUSERS_CLASS, "Transformer2DModel")  # the second is the name in facebook/DiT-XL-2-256
DEFAULTS = {"num_embeds_ada_norm": 1000, "num_layers": 28, "sample_size": 32, "patch_size": 2}
"""diffusers' own, for keys that a config leaves out."""
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
    sizes = with_defaults(config, DEFAULTS)
    require_sizes(folder, sizes, _HINT)
    require_patches(folder, sizes, _HINT)
