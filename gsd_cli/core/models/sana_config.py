"""Which configs of diffusers' SanaTransformer2DModel can be teachers, and the texts that they take. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gsd_cli.base.errors import GsdError
from gsd_cli.core.models.config_check import require_channels, require_patches, require_sizes, with_defaults
from gsd_cli.core.models.text_sizes import TextSizes

DIFFUSERS_CLASS = "SanaTransformer2DModel"
CLASS_NAMES = (DIFFUSERS_CLASS,)
DEFAULTS = {
    "sample_size": 32, "patch_size": 1, "num_layers": 20, "num_attention_heads": 70, "attention_head_dim": 32,
    "num_cross_attention_heads": 20, "cross_attention_head_dim": 112, "cross_attention_dim": 2240,
    "caption_channels": 2304,
}  # fmt: skip
"""diffusers' own, for keys that a config leaves out."""
_HINT = "give a SANA of 0.6 or 1.6 billion parameters, or a fine-tuning of one"


def text_sizes(config: Mapping[str, Any]) -> TextSizes:
    """The size of a token's vector; the tokens have a mask. config: of a usable network."""
    return TextSizes(int(with_defaults(config, DEFAULTS)["caption_channels"]), mask=True)


def require_usable(folder: Path, config: dict[str, Any]) -> None:
    """Raise GsdError (exit 3) for a config that is not of an image denoiser as Xie et al. (2024) describe it."""
    channels, out = config.get("in_channels", 32), config.get("out_channels", 32)
    require_channels(folder, channels, channels if out is None else out)
    if config.get("guidance_embeds"):
        raise GsdError(f"{folder} has a guidance embedding, as SANA-Sprint, which takes another time", hint=_HINT)
    sizes = with_defaults(config, DEFAULTS)
    require_sizes(folder, sizes, _HINT)
    require_patches(folder, sizes, _HINT)
    width, of_texts = sizes["num_attention_heads"] * sizes["attention_head_dim"], sizes["cross_attention_dim"]
    if of_texts != width:
        raise GsdError(f"{folder}: its tokens have {width} channels and its texts {of_texts}", hint=_HINT)
    for key, default in (("timestep_scale", 1.0), ("mlp_ratio", 2.5)):
        value = config.get(key, default)
        if not isinstance(value, int | float) or not 0 < value < 1e4:
            raise GsdError(f"{folder} names a {key} of {value!r}", hint=f"a positive number is needed; {_HINT}")
