"""Which configs of diffusers' UNet2DConditionModel can be teachers, and the texts that they take. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gsd_cli.base.errors import GsdError
from gsd_cli.core.models.config_check import LARGEST, require_channels
from gsd_cli.core.models.text_sizes import TextSizes
from gsd_cli.core.models.unet2d_config import require_size

DIFFUSERS_CLASS = "UNet2DConditionModel"
CLASS_NAMES = (DIFFUSERS_CLASS,)
IMAGE_SCALE = 8
"""Pixels per latent pixel of SDXL's autoencoder: its time_ids are sizes in pixels."""
TIME_IDS = 6
"""Numbers of SDXL's time_ids: the image's height and width, the crop's top and left, the target's height and width."""
_HINT = "give a Stable Diffusion 1 or 2, an SDXL, or a fine-tuning of one"
_BLOCKS = ("DownBlock2D", "AttnDownBlock2D", "CrossAttnDownBlock2D", "ResnetDownsampleBlock2D")
"""Down blocks that take a hidden state, an embedding and at most a text."""
_EMPTY = (
    "class_embed_type", "num_class_embeds", "encoder_hid_dim_type", "time_cond_proj_dim", "time_embedding_act_fn",
    "num_attention_heads",
)  # fmt: skip
"""Keys of other conditions, which must be left empty."""


def text_sizes(config: Mapping[str, Any]) -> TextSizes:
    """The sizes of a token's vector and of the vector of the whole text, None where a network takes none.

    config: of a usable network.
    """
    width = int(config.get("cross_attention_dim", 1280))
    if config.get("addition_embed_type") is None:
        return TextSizes(width)
    numbers = TIME_IDS * int(config["addition_time_embed_dim"])
    return TextSizes(width, int(config["projection_class_embeddings_input_dim"]) - numbers, image=True)


def uncropped(config: Mapping[str, Any]) -> tuple[int, ...]:
    """SDXL's time_ids of an image of the network's own size that is not cropped."""
    size = config["sample_size"]
    height, width = (IMAGE_SCALE * side for side in ([size] * 2 if isinstance(size, int) else size))
    return height, width, 0, 0, height, width


def require_usable(folder: Path, config: dict[str, Any]) -> None:
    """Raise GsdError (exit 3) for a config that is not of an image denoiser conditioned on timesteps and texts."""
    require_channels(folder, config.get("in_channels", 4), config.get("out_channels", 4))  # the defaults of diffusers
    require_size(folder, config)
    if foreign := [key for key in _EMPTY if config.get(key) is not None]:
        raise GsdError(f"{folder} is conditioned on more than a text: its {foreign[0]} is set", hint=_HINT)
    if (added := config.get("addition_embed_type")) not in (None, "text_time"):
        raise GsdError(f"{folder} is conditioned on {added!r} embeddings", hint=_HINT)
    if (kind := config.get("time_embedding_type", "positional")) != "positional":
        raise GsdError(f"{folder} does not take timesteps ({kind} time embedding)", hint=_HINT)
    blocks = config.get("down_block_types", [])
    if not isinstance(blocks, list) or (unknown := [one for one in blocks if one not in _BLOCKS]):
        what = unknown[0] if isinstance(blocks, list) else blocks
        raise GsdError(f"{folder} has down blocks that gsd does not read: {what}", hint=_HINT)
    needed = ["cross_attention_dim"] if "cross_attention_dim" in config else []
    needed += ["addition_time_embed_dim", "projection_class_embeddings_input_dim"] if added else []
    for key in needed:
        if not isinstance(config.get(key), int) or not 0 < config[key] <= LARGEST:
            raise GsdError(f"{folder} names a {key} of {config.get(key)!r}", hint=f"a number is needed; {_HINT}")
    if (pooled := text_sizes(config).whole) is not None and pooled <= 0:
        raise GsdError(f"{folder} has no room for the vector of a whole text", hint=_HINT)
