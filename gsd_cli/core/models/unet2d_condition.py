"""Diffusers' UNet2DConditionModel: its call; `unet2d_condition_config.py` says which configs can be teachers.

The network of Stable Diffusion (Rombach et al. 2022) and of SDXL (Podell et al. 2023): a UNet2DModel whose blocks also
attend to the tokens of a text. SDXL's adds an embedding of the whole text and of the image's size to that of time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.network_kind import NetworkKind, PipelineLayout
from gsd_cli.core.models.unet2d import bottleneck, output_layers, shape, walk_down
from gsd_cli.core.models.unet2d_condition_config import CLASS_NAMES, DIFFUSERS_CLASS, text_sizes, uncropped


def call(net: Any, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """The raw output [B, C, H, W] for x [B, C, H, W], t [B] (fractions are kept) and the texts of `condition`.

    Raises GsdError (exit 3) without texts.
    """
    added = {"text_embeds": condition.pooled, "time_ids": condition.time_ids}
    output: Tensor = net(
        x, t, condition.require_text(), encoder_attention_mask=condition.mask,
        added_cond_kwargs=added if net.config.addition_embed_type == "text_time" else None,
    ).sample  # fmt: skip
    return output


def encode(net: Any, x: Tensor, t: Tensor, full: bool = False) -> list[Tensor]:
    """The outputs of the down blocks, then of the mid block, [B, c, h, w] each; the decoder is not run.

    The text is one token of zeros, of which attention is a constant. full: the map before the first downsampling comes
    first.
    """
    if net.config.center_input_sample:
        x = 2 * x - 1
    blank = _blank(net, x)
    embedding = net.time_embedding(net.time_proj(t).to(x.dtype))
    if net.config.addition_embed_type == "text_time":
        added = {"text_embeds": blank.pooled, "time_ids": blank.time_ids}
        embedding = embedding + net.get_aug_embed(embedding, blank.embeddings, added)

    def call_block(block: Any, hidden: Tensor) -> Any:
        text = {"encoder_hidden_states": blank.embeddings} if getattr(block, "has_cross_attention", False) else {}
        return block(hidden, embedding, **text)

    return walk_down(net, net.conv_in(x), call_block, full)


def _blank(net: Any, x: Tensor) -> Condition:
    """Vectors of zeros for a text, and an image that is not cropped, for each of x [B, C, H, W]."""
    sizes = text_sizes(net.config)
    width, pooled = sizes.token, sizes.whole
    embeddings = x.new_zeros(len(x), 1, width)
    if pooled is None:
        return Condition(embeddings=embeddings)
    ids = torch.cat([x.new_full((len(x), 1), size) for size in uncropped(net.config)], 1)
    return Condition(embeddings=embeddings, pooled=x.new_zeros(len(x), pooled), time_ids=ids)


UNET2D_CONDITION = NetworkKind(
    diffusers_class=DIFFUSERS_CLASS,
    class_names=CLASS_NAMES,
    shape=shape,
    classes=lambda net: None,
    call=call,
    encode=encode,
    bottleneck=bottleneck,
    output_layers=output_layers,
    text_sizes=lambda net: text_sizes(net.config),
    layout=PipelineLayout("unet", "vae", "StableDiffusionPipeline"),
)
