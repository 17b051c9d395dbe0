"""Diffusers' UNet2DModel: its block names and call; `unet2d_config.py` says which configs can be teachers.

The DDPM network (Ho et al. 2020): down blocks, a mid block, up blocks with skips, conditioned on a
timestep and at most on class numbers; and NCSN++ (Song et al. 2021), which is given a noise level. The last
part holds what a copy that is wider or deeper needs to know (`distillation/growth.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from gsd_cli.base.errors import GsdError
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.config_check import DEEPEST, LARGEST
from gsd_cli.core.models.network_kind import NetworkKind
from gsd_cli.core.models.unet2d_config import CLASS_NAMES, DIFFUSERS_CLASS


def shape(net: Any) -> tuple[int, int, int]:
    """(C, H, W) of the network's input."""
    size = net.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    return int(net.config.in_channels), int(height), int(width)


def classes(net: Any) -> int | None:
    """The number of classes the network is conditioned on; None for an unconditional network."""
    count: int | None = getattr(net.config, "num_class_embeds", None)
    return count


def call(net: Any, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """The raw output [B, C, H, W] for x [B, C, H, W], t [B] (fractions are kept) and the classes of `condition`."""
    # t must be a tensor: UNet2DModel casts a Python float to long
    output: Tensor = net(x, t, *(() if condition.classes is None else (condition.classes,))).sample
    return output


def encode(net: Any, x: Tensor, t: Tensor, full: bool = False) -> list[Tensor]:
    """The outputs of the down blocks, then of the mid block, [B, c, h, w] each; the decoder is not run.

    full: the map before the first downsampling comes first.
    """
    if net.config.center_input_sample:
        x = 2 * x - 1
    embedding = net.time_embedding(net.time_proj(t).to(x.dtype))
    image = x  # NCSN++ (Song et al. 2021) passes the image, smaller and smaller, from one `Skip...` block to the next

    def call_block(block: Any, hidden: Tensor) -> Any:
        nonlocal image
        if not hasattr(block, "skip_conv"):
            return block(hidden, embedding)
        hidden, skips, image = block(hidden, embedding, image)
        return hidden, skips

    return walk_down(net, net.conv_in(x), call_block, full)


def walk_down(net: Any, hidden: Tensor, call_block: Callable[[Any, Tensor], Any], full: bool) -> list[Tensor]:
    """The maps of a UNet's down blocks and mid block, from the output of its first layer.

    call_block(block, hidden): its output and its skips, or the mid block's output. full: see `encode`.
    """
    maps: list[Tensor] = []
    for block in net.down_blocks:
        hidden, skips = call_block(block, hidden)
        if full and not maps:
            # a block's last skip is its downsampled output
            maps.append(skips[-1 if block.downsamplers is None else -2])
        maps.append(hidden)
    if net.mid_block is not None:
        maps.append(call_block(net.mid_block, hidden))
    return maps


def bottleneck(net: Any) -> nn.Module:
    """The mid block. Raises GsdError (exit 3) for a network without one."""
    if net.mid_block is None:
        raise GsdError("the network has no mid block to edit", hint="use a model with one")
    block: nn.Module = net.mid_block
    return block


def output_layers(net: Any) -> tuple[str, ...]:
    """The names of the last up block and of the output layers."""
    return f"up_blocks.{len(net.up_blocks) - 1}", "conv_norm_out", "conv_out"


def prepare(net: Any) -> None:
    """Make the frequencies of a Fourier time embedding a buffer: they are drawn once, and no training changes them."""
    embedding: Any = getattr(net, "time_proj", None)
    if type(embedding).__name__ == "GaussianFourierProjection" and isinstance(embedding.weight, nn.Parameter):
        frequencies = embedding.weight.detach()
        del embedding.weight
        embedding.register_buffer("weight", frequencies)


UNET2D = NetworkKind(
    diffusers_class=DIFFUSERS_CLASS,
    class_names=CLASS_NAMES,
    shape=shape,
    classes=classes,
    call=call,
    encode=encode,
    bottleneck=bottleneck,
    output_layers=output_layers,
    prepare=prepare,
)


# -- growth: a network with more channels or layers ----------------------------------------------

_GROWABLE_BLOCKS = frozenset(
    ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D", "UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D")
)
"""Blocks whose layers add to their input, unscaled, and whose groups do not depend on the width."""
RESIDUAL_LAYERS = ("ResnetBlock2D", "Attention")
"""Classes of the layers that a block may be given more of."""


def find_growth_obstacle(net: Any, width: int, depth: int) -> str | None:
    """Why the network cannot be copied into one of `width` times the channels and `depth` times the layers."""
    if type(net).__name__ != UNET2D.diffusers_class:
        return f"a {type(net).__name__} cannot be grown, only a UNet2DModel"
    config = net.config
    blocks = {kind.removeprefix("UNetRes") for kind in (*config["down_block_types"], *config["up_block_types"])}
    if unknown := sorted(blocks - _GROWABLE_BLOCKS):
        return f"a network with a {unknown[0]} cannot be grown"
    if width > 1 and config["class_embed_type"] == "identity":
        return "a network that takes embeddings for classes cannot be grown in width: theirs is fixed"
    if config["time_embedding_type"] == "fourier":
        return "a network with a fourier time embedding cannot be grown: its frequencies are random numbers"
    if width > 1 and config["time_embedding_type"] != "positional":
        return f"a network with a {config['time_embedding_type']} time embedding cannot be grown in width"
    layers, channels = depth * config["layers_per_block"], width * max(config["block_out_channels"])
    if layers > DEEPEST or channels > LARGEST:
        return f"a student of {layers:,} layers per block and {channels:,} channels could not be read again"
    return None


def grow_config(config: Any, width: int, depth: int) -> dict[str, Any]:
    """The config of a network with `width` times the channels and `depth` times the layers per block."""
    # diffusers' own notes go: they list the values left at their defaults, which it would then ignore
    grown = {name: value for name, value in config.items() if not name.startswith("_")}
    channels = config["block_out_channels"]
    grown["block_out_channels"] = [width * c for c in channels]
    grown["layers_per_block"] = depth * config["layers_per_block"]
    for name in ("attention_head_dim", "time_embedding_dim"):
        if config.get(name) is not None:
            grown[name] = width * config[name]
    # frequency k of n is 10000^(-k / (n - shift)): with this shift the new number (width k) is the old number k
    before, after = channels[0] // 2, width * channels[0] // 2
    grown["freq_shift"] = after - width * (before - config["freq_shift"])
    return grown


def find_origin(name: str, config: Any, depth: int) -> str | None:
    """The name in a network of `config` of a module in its copy of `depth` times the layers; None in an added layer.

    A down block's added layers are its last, so the skips they leave equal the last one before. An up block reads
    skips in reverse and has one layer more: its added layers come after its first one, where those skips arrive.
    """
    parts, layers = name.split("."), config["layers_per_block"]
    if parts[0] not in ("down_blocks", "up_blocks") or len(parts) < 4 or parts[2] not in ("resnets", "attentions"):
        return name
    index, added = int(parts[3]), layers * (depth - 1)
    first = layers if parts[0] == "down_blocks" else 1
    if first <= index < first + added:
        return None
    return name if index < first else ".".join([*parts[:3], str(index - added), *parts[4:]])


def sinusoid_readers(config: Any) -> set[str]:
    """The names of the layers that read sines and cosines: of t, and of class numbers where they are embedded alike."""
    readers = {"time_embedding.linear_1"}
    return readers | {"class_embedding.linear_1"} if config["class_embed_type"] == "timestep" else readers


def is_query(name: str) -> bool:
    """Whether the layer of this name gives an attention's queries."""
    return name.endswith(".to_q")


def last_layer(layer: Any) -> nn.Module:
    """The last layer on the residual branch of a residual block or an attention."""
    last: nn.Module = layer.to_out[0] if hasattr(layer, "to_out") else layer.conv2
    return last


def shortcut(layer: Any) -> nn.Module | None:
    """The convolution on a residual block's other branch; None where that is the identity."""
    found: nn.Module | None = getattr(layer, "conv_shortcut", None)
    return found
