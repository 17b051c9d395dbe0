"""Diffusers' SanaTransformer2DModel: its call; `sana_config.py` says which configs can be teachers.

The linear diffusion transformer of SANA (Xie et al. 2024): attention within an image is linear in its tokens, which
also attend to those of the text. The tokens are maps as those of a DiT.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gsd_cli.core.models import dit
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.network_kind import NetworkKind, PipelineLayout
from gsd_cli.core.models.sana_config import CLASS_NAMES, DIFFUSERS_CLASS, text_sizes


def call(net: Any, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """The raw output [B, C or 2 C, H, W] for x [B, C, H, W], t [B] in [0, 1000] and the texts of `condition`.

    Raises GsdError (exit 3) without texts.
    """
    output: Tensor = net(
        x, condition.require_text(), t * net.config.timestep_scale, encoder_attention_mask=condition.mask
    ).sample
    return output


def encode(net: Any, x: Tensor, t: Tensor, full: bool = False) -> list[Tensor]:
    """The tokens after some blocks up to the middle one, as maps [B, c, h, w]; the blocks after it are not run.

    The text is one token of zeros. full: the embedded patches, before the first block, come first.
    """
    text = x.new_zeros(len(x), 1, text_sizes(net.config).token)
    words, tokens = net.caption_norm(net.caption_projection(text)), net.patch_embed(x)
    time, _ = net.time_embed(t * net.config.timestep_scale, batch_size=len(x), hidden_dtype=x.dtype)
    maps = [dit.to_map(net, tokens)] if full else []
    depths, side = dit.map_depths(net), dit.patches_per_side(net)
    for depth, block in enumerate(net.transformer_blocks[: depths[-1]], 1):
        tokens = block(tokens, None, words, None, time, side, side)
        if depth in depths:
            maps.append(dit.to_map(net, tokens))
    return maps


def output_layers(net: Any) -> tuple[str, ...]:
    """The names of the last block's layers and of the output layer."""
    last = f"transformer_blocks.{len(net.transformer_blocks) - 1}"
    return f"{last}.attn1", f"{last}.attn2", f"{last}.ff", "proj_out"


SANA = NetworkKind(
    diffusers_class=DIFFUSERS_CLASS,
    class_names=CLASS_NAMES,
    shape=dit.shape,
    classes=lambda net: None,
    call=call,
    encode=encode,
    bottleneck=dit.bottleneck,
    output_layers=output_layers,
    to_map=dit.to_map,
    from_map=dit.from_map,
    text_sizes=lambda net: text_sizes(net.config),
    flow_pipeline=dit.flow_pipeline,
    layout=PipelineLayout("transformer", "vae", "SanaPipeline"),
)
