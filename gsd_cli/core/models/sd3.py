"""Diffusers' SD3Transformer2DModel: its call; `sd3_config.py` says which configs can be teachers.

The multimodal diffusion transformer of Stable Diffusion 3 (Esser et al. 2024): tokens of the image and of the text
attend to each other in every block. The image's tokens are maps as those of a DiT.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gsd_cli.core.models import dit
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.network_kind import NetworkKind, PipelineLayout
from gsd_cli.core.models.sd3_config import CLASS_NAMES, DIFFUSERS_CLASS, text_sizes


def call(net: Any, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """The raw output [B, C, H, W] for x [B, C, H, W], t [B] in [0, 1000] and the texts of `condition`.

    Raises GsdError (exit 3) without texts.
    """
    output: Tensor = net(x, condition.require_text(whole=True), condition.pooled, t).sample
    return output


def encode(net: Any, x: Tensor, t: Tensor, full: bool = False) -> list[Tensor]:
    """The image's tokens after some blocks up to the middle one, as maps [B, c, h, w]; the blocks after it are not run.

    The text is one token of zeros. full: the embedded patches, before the first block, come first.
    """
    sizes = text_sizes(net.config)
    time = net.time_text_embed(t, x.new_zeros(len(x), sizes.whole or 0))
    words, tokens = net.context_embedder(x.new_zeros(len(x), 1, sizes.token)), net.pos_embed(x).contiguous()
    maps = [dit.to_map(net, tokens)] if full else []
    depths = dit.map_depths(net)
    for depth, block in enumerate(net.transformer_blocks[: depths[-1]], 1):
        words, tokens = block(hidden_states=tokens, encoder_hidden_states=words, temb=time)
        if depth in depths:
            maps.append(dit.to_map(net, tokens))
    return maps


def output_layers(net: Any) -> tuple[str, ...]:
    """The names of the last block's layers and of the output layer."""
    last = f"transformer_blocks.{len(net.transformer_blocks) - 1}"
    return f"{last}.attn", f"{last}.ff", "norm_out", "proj_out"


def to_map(net: Any, output: tuple[Tensor, Tensor]) -> Tensor:
    """The image's tokens in a block's output (tokens of the text, tokens [B, h w, c]), as a map [B, c, h, w]."""
    return dit.to_map(net, output[1])


def from_map(net: Any, features: Tensor, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """A block's output with its image's tokens replaced by a map [B, c, h, w]."""
    return output[0], dit.from_map(net, features, output[1])


SD3 = NetworkKind(
    diffusers_class=DIFFUSERS_CLASS,
    class_names=CLASS_NAMES,
    shape=dit.shape,
    classes=lambda net: None,
    call=call,
    encode=encode,
    bottleneck=dit.bottleneck,
    output_layers=output_layers,
    to_map=to_map,
    from_map=from_map,
    text_sizes=lambda net: text_sizes(net.config),
    flow_pipeline=dit.flow_pipeline,
    layout=PipelineLayout("transformer", "vae", "StableDiffusion3Pipeline"),
)
