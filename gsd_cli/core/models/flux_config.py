"""Which configs of diffusers' FluxTransformer2DModel can be teachers, and the texts that they take. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gsd_cli.base.errors import GsdError
from gsd_cli.catalogue.packed import PACKED_CLASS, PATCH, SIDE_KEY, USUAL_SIDE
from gsd_cli.core.models.config_check import MAX_SIDE, require_channels, require_sizes, with_defaults
from gsd_cli.core.models.text_sizes import TextSizes

DIFFUSERS_CLASS = PACKED_CLASS
CLASS_NAMES = (DIFFUSERS_CLASS,)
DEFAULTS = {
    "num_layers": 19, "num_single_layers": 38, "attention_head_dim": 128, "num_attention_heads": 24,
    "joint_attention_dim": 4096, "pooled_projection_dim": 768,
}  # fmt: skip
"""diffusers' own, for keys that a config leaves out."""
AXES = (16, 56, 56)
"""diffusers' own channels per head of a token's place: of its image, its row and its column."""
_HINT = "give a FLUX.1 schnell or dev, or a fine-tuning of one"


def text_sizes(config: Mapping[str, Any]) -> TextSizes:
    """The sizes of a token's vector and of the vector of the whole text. config: of a usable network."""
    sizes = with_defaults(config, DEFAULTS)
    return TextSizes(int(sizes["joint_attention_dim"]), int(sizes["pooled_projection_dim"]))


def require_usable(folder: Path, config: dict[str, Any]) -> None:
    """Raise GsdError (exit 3) for a config that is not of a text-to-image denoiser of the FLUX.1 family."""
    _require_packed(folder, config)
    sizes = with_defaults(config, DEFAULTS)
    require_sizes(folder, sizes, _HINT, may_be_zero=("num_single_layers",))
    axes, width = config.get("axes_dims_rope", AXES), sizes["attention_head_dim"]
    whole = isinstance(axes, list | tuple) and len(axes) == 3 and all(isinstance(n, int) and n > 0 for n in axes)
    if not whole or any(n % 2 for n in axes) or sum(axes) != width:
        raise GsdError(
            f"{folder} names axes_dims_rope of {axes!r}", hint=f"three even numbers whose sum is {width}; {_HINT}"
        )
    if not isinstance(config.get("guidance_embeds", False), bool):
        raise GsdError(f"{folder} names guidance_embeds of {config['guidance_embeds']!r}", hint=_HINT)


def _require_packed(folder: Path, config: dict[str, Any]) -> None:
    """Raise GsdError (exit 3) unless a network maps patches of 2 x 2 latent pixels to themselves."""
    channels, patch = config.get("in_channels", 64), config.get("patch_size", 1)
    out = channels if config.get("out_channels") is None else config["out_channels"]
    if patch != 1 or out != channels:
        # networks that fill, or follow depth or edges, are given an image in further channels
        raise GsdError(f"{folder}: {channels} channels in, {out} out, patches of {patch}", hint=_HINT)
    if not isinstance(channels, int) or channels % PATCH**2:
        raise GsdError(f"{folder}: {channels!r} channels are no patches of {PATCH} x {PATCH}", hint=_HINT)
    require_channels(folder, channels // PATCH**2, channels // PATCH**2)
    side = USUAL_SIDE if config.get(SIDE_KEY) is None else config[SIDE_KEY]
    if not isinstance(side, int) or not 0 < side <= MAX_SIDE or side % PATCH:
        raise GsdError(
            f"{folder} names a {SIDE_KEY} of {side!r}", hint=f"an even number up to {MAX_SIDE} of latent pixels"
        )
