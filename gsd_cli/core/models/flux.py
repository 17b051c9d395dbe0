"""Diffusers' FluxTransformer2DModel: its call; `flux_config.py` says which configs can be teachers.

The flow transformer of FLUX.1 (Black Forest Labs 2024): tokens of the image and of the text attend to each other, first
in blocks with weights for each (`transformer_blocks`), then in blocks with common weights. A token of the image is a
patch of 2 x 2 latent pixels, packed into its channels, with its row and its column. The image's tokens are maps as
those of a DiT.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from gsd_cli.catalogue.packed import PATCH, SIDE_KEY, latent_shape
from gsd_cli.core.models import dit, sd3
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.flow_pipeline import FlowPipeline
from gsd_cli.core.models.flux_config import CLASS_NAMES, DIFFUSERS_CLASS, text_sizes
from gsd_cli.core.models.network_kind import NetworkKind, PipelineLayout

GUIDANCE = 3.5
"""The scale that a network with a guidance embedding (FLUX.1 dev) is given, its pipeline's default."""
TIMES = 1000
"""The times that gsd gives are up to this; the network takes them up to 1."""
STEPS, FEW_STEPS = 28, 4
"""The default steps of FluxPipeline, and those of FLUX.1 schnell, which has no guidance embedding."""


def shape(net: Any) -> tuple[int, int, int]:
    """(C, H, W) of the latents, before they are packed."""
    return latent_shape(net.config)


def call(net: Any, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """The raw output [B, C, H, W] for x [B, C, H, W], t [B] in [0, 1000] and the texts of `condition`.

    Raises GsdError (exit 3) without texts.
    """
    side, texts = _side(net), condition.require_text(whole=True)
    tokens = net(
        hidden_states=pack(x), encoder_hidden_states=texts, pooled_projections=condition.pooled, timestep=t / TIMES,
        img_ids=_image_places(side, x), txt_ids=_text_places(texts), guidance=_guidance(net, t),
    ).sample  # fmt: skip
    return unpack(tokens, side)


def encode(net: Any, x: Tensor, t: Tensor, full: bool = False) -> list[Tensor]:
    """The image's tokens after some blocks up to the middle one, as maps [B, c, h, w]; the blocks after it are not run.

    The text is one token of zeros. full: the embedded patches, before the first block, come first.
    """
    sizes, side, every = text_sizes(net.config), _side(net), blocks(net)
    text = x.new_zeros(len(x), 1, sizes.token)
    words, tokens, time = net.context_embedder(text), net.x_embedder(pack(x)), _embed_time(net, x, t)
    turns = net.pos_embed(torch.cat([_text_places(text), _image_places(side, x)]))
    maps = [dit.lay_out(tokens, side)] if full else []
    depths = dit.spaced_depths(len(every))
    for depth, block in enumerate(every[: depths[-1]], 1):
        words, tokens = block(hidden_states=tokens, encoder_hidden_states=words, temb=time, image_rotary_emb=turns)
        if depth in depths:
            maps.append(dit.lay_out(tokens, side))
    return maps


def pack(x: Tensor) -> Tensor:
    """Latents [B, C, H, W] as tokens [B, H W / 4, 4 C]: a patch's pixels are channels, row by row."""
    return pixel_unshuffle(x, PATCH).flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, side: int) -> Tensor:
    """Tokens [B, side side, 4 C] as latents [B, C, 2 side, 2 side], the inverse of `pack`."""
    return pixel_shuffle(dit.lay_out(tokens, side), PATCH)


def blocks(net: Any) -> list[nn.Module]:
    """All blocks in their order. Each takes and gives tokens of the text and of the image."""
    return [*net.transformer_blocks, *net.single_transformer_blocks]


def bottleneck(net: Any) -> nn.Module:
    """The middle block; its output are tokens (`to_map`)."""
    every = blocks(net)
    return every[dit.spaced_depths(len(every))[-1] - 1]


def output_layers(net: Any) -> tuple[str, ...]:
    """The names of the last block's layers and of the output layers."""
    if net.single_transformer_blocks:
        last = f"single_transformer_blocks.{len(net.single_transformer_blocks) - 1}"
        return f"{last}.attn", f"{last}.proj_mlp", f"{last}.proj_out", "norm_out", "proj_out"
    last = f"transformer_blocks.{len(net.transformer_blocks) - 1}"
    return f"{last}.attn", f"{last}.ff", "norm_out", "proj_out"


def to_map(net: Any, output: tuple[Tensor, Tensor]) -> Tensor:
    """The image's tokens in a block's output (tokens of the text, tokens [B, h w, c]), as a map [B, c, h, w]."""
    return dit.lay_out(output[1], _side(net))


def flow_pipeline(net: Any) -> FlowPipeline:
    """FluxPipeline's steps are even in time, before they are shifted."""
    return FlowPipeline(_side(net) ** 2, even=True, steps=STEPS if net.config.guidance_embeds else FEW_STEPS)


def _side(net: Any) -> int:
    """The patches of an image in a row."""
    return shape(net)[1] // PATCH


def _image_places(side: int, like: Tensor) -> Tensor:
    """The place of each token of the image: 0, its row, its column; [side side, 3]."""
    steps = torch.arange(side, device=like.device, dtype=like.dtype)
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).flatten(0, 1)


def _text_places(texts: Tensor) -> Tensor:
    """The place of each token of the texts [B, L, D]: all are at the origin; [L, 3]."""
    return texts.new_zeros(texts.shape[1], 3)


def _guidance(net: Any, t: Tensor) -> Tensor | None:
    return torch.full_like(t, GUIDANCE) if net.config.guidance_embeds else None


def _embed_time(net: Any, x: Tensor, t: Tensor) -> Tensor:
    """The embedding of the time, of the guidance and of a text whose vector is zero."""
    whole = x.new_zeros(len(x), text_sizes(net.config).whole or 0)
    guidance = _guidance(net, t)
    given = (t,) if guidance is None else (t, TIMES * guidance)
    embedded: Tensor = net.time_text_embed(*given, whole)
    return embedded


FLUX = NetworkKind(
    diffusers_class=DIFFUSERS_CLASS,
    class_names=CLASS_NAMES,
    shape=shape,
    classes=lambda net: None,
    call=call,
    encode=encode,
    bottleneck=bottleneck,
    output_layers=output_layers,
    to_map=to_map,
    from_map=sd3.from_map,
    text_sizes=lambda net: text_sizes(net.config),
    flow_pipeline=flow_pipeline,
    layout=PipelineLayout("transformer", "vae", "FluxPipeline"),
    own_keys=(SIDE_KEY,),
)
