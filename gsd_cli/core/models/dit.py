"""Diffusers' DiTTransformer2DModel: its block names and call; `dit_config.py` says which configs can be teachers.

The diffusion transformer of Peebles and Xie (ICCV 2023): the image or latent is cut into patches, and all blocks work
on the same tokens, conditioned on a timestep and a class. There is no encoder: its "maps" are the tokens after some of
the blocks, laid out as the patches are, and the middle block is the bottleneck.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.dit_config import CLASS_NAMES, DIFFUSERS_CLASS
from gsd_cli.core.models.flow_pipeline import FlowPipeline
from gsd_cli.core.models.network_kind import NetworkKind, PipelineLayout

MAPS = 4
"""Maps of the encoder: after blocks that are evenly spaced up to the middle one."""


def shape(net: Any) -> tuple[int, int, int]:
    """(C, H, W) of the network's input."""
    side = int(net.config.sample_size)
    return int(net.config.in_channels), side, side


def classes(net: Any) -> int:
    """The number of classes the network is conditioned on."""
    return int(net.config.num_embeds_ada_norm)


def null_class(net: Any) -> int:
    """The class that stands for any: the last row of the label table."""
    return int(net.config.num_embeds_ada_norm)


def prepare(net: Any) -> None:
    """Keep the label tables from replacing a tenth of the labels by the null class while the network is in training."""
    for block in net.transformer_blocks:
        block.norm1.emb.class_embedder.dropout_prob = 0.0


def call(net: Any, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """The raw output [B, C or 2 C, H, W] for x [B, C, H, W], t [B] (fractions are kept) and the classes of `condition`.

    Without classes all rows have the null class.
    """
    classes = condition.classes
    output: Tensor = net(x, t, _null_labels(net, x) if classes is None else classes).sample
    return output


def encode(net: Any, x: Tensor, t: Tensor, full: bool = False) -> list[Tensor]:
    """The tokens after some blocks up to the middle one, as maps [B, c, h, w]; the blocks after it are not run.

    All maps have one side, that of the patches. full: the embedded patches, before the first block, come first.
    """
    depths, labels = map_depths(net), _null_labels(net, x)
    tokens = net.pos_embed(x)
    maps = [to_map(net, tokens)] if full else []
    for depth, block in enumerate(net.transformer_blocks[: depths[-1]], 1):
        tokens = block(tokens, timestep=t, class_labels=labels)
        if depth in depths:
            maps.append(to_map(net, tokens))
    return maps


def map_depths(net: Any) -> list[int]:
    """After how many blocks each map is taken; the last is the middle of the network."""
    return spaced_depths(len(net.transformer_blocks))


def spaced_depths(blocks: int) -> list[int]:
    """`map_depths` of a network of this many blocks."""
    middle = (blocks + 1) // 2
    return sorted({max(1, round(middle * k / MAPS)) for k in range(1, MAPS + 1)})


def bottleneck(net: Any) -> nn.Module:
    """The middle block; its output are tokens (`to_map`)."""
    block: nn.Module = net.transformer_blocks[map_depths(net)[-1] - 1]
    return block


def to_map(net: Any, tokens: Tensor) -> Tensor:
    """Tokens [B, h w, c] as a map [B, c, h, w]."""
    return lay_out(tokens, patches_per_side(net))


def lay_out(tokens: Tensor, side: int) -> Tensor:
    """Tokens [B, side side, c] as a map [B, c, side, side]."""
    return tokens.transpose(1, 2).unflatten(2, (side, side))


def patches_per_side(net: Any) -> int:
    """h = w: the patches of an image in a row."""
    return int(net.config.sample_size) // int(net.config.patch_size)


def flow_pipeline(net: Any) -> FlowPipeline:
    """What a pipeline makes of a flow's scheduler, which chooses the steps."""
    return FlowPipeline(patches_per_side(net) ** 2)


def from_map(net: Any, features: Tensor, tokens: Tensor) -> Tensor:
    """A map [B, c, h, w] as tokens [B, h w, c], in place of `tokens`."""
    return features.flatten(2).transpose(1, 2)


def output_layers(net: Any) -> tuple[str, ...]:
    """The names of the last block's layers and of the output layers, without the table of labels."""
    last = f"transformer_blocks.{len(net.transformer_blocks) - 1}"
    return f"{last}.attn1", f"{last}.ff", "proj_out_1", "proj_out_2"


def _null_labels(net: Any, x: Tensor) -> Tensor:
    return torch.full((len(x),), null_class(net), device=x.device)


DIT = NetworkKind(
    diffusers_class=DIFFUSERS_CLASS,
    class_names=CLASS_NAMES,
    shape=shape,
    classes=classes,
    call=call,
    encode=encode,
    bottleneck=bottleneck,
    output_layers=output_layers,
    to_map=to_map,
    from_map=from_map,
    null_class=null_class,
    prepare=prepare,
    # the output layer takes the first block's embedding
    apart=lambda net: (net.transformer_blocks[0].norm1.emb,),
    flow_pipeline=flow_pipeline,
    layout=PipelineLayout("transformer", "vae", "DiTPipeline", names_classes=True),
)
