"""EDM's networks as kinds of networks: what gsd asks of them. `edm_unet.py` has the networks themselves."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.edm_unet import CLASSES
from gsd_cli.core.models.network_kind import NetworkKind


def shape(net: Any) -> tuple[int, int, int]:
    """(C, H, W) of the network's input."""
    return net.sizes.in_channels, net.sizes.sample_size, net.sizes.sample_size


def classes(net: Any) -> int | None:
    """The number of classes the network is conditioned on; None for an unconditional network."""
    return net.sizes.num_class_embeds or None


def call(net: Any, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """The raw output [B, C, H, W] for x [B, C, H, W], t = ln(sigma) / 4 [B] and the classes of `condition`."""
    output: Tensor = net(x, t, condition.classes)
    return output


def encode(net: Any, x: Tensor, t: Tensor, full: bool = False) -> list[Tensor]:
    """The last map of each resolution of the encoder, but for the finest, then that between encoder and decoder.

    full: the finest comes first.
    """
    maps = net.encode(x, t)
    levels = range(0 if full else 1, len(net.sizes.channel_mult))
    return [*(maps[f"{net.side(level)}_block{net.sizes.num_blocks - 1}"] for level in levels), maps[net.middle[1]]]


def bottleneck(net: Any) -> nn.Module:
    """The last block between encoder and decoder."""
    block: nn.Module = net.dec[net.middle[1]]
    return block


def output_layers(net: Any) -> tuple[str, ...]:
    """The names of the decoder's last block and of the output layers."""
    names = [f"dec.{name}" for name in net.dec if name.startswith(net.side(0))]
    return tuple(names[-3:]) if names[-1].endswith("_aux_conv") else (names[-1], "out_norm", "out_conv")


SONG_UNET, DHARIWAL_UNET = (
    NetworkKind(
        diffusers_class=name,
        class_names=(name,),
        shape=shape,
        classes=classes,
        call=call,
        encode=encode,
        bottleneck=bottleneck,
        output_layers=output_layers,
        own_class=own_class,
    )
    for name, own_class in CLASSES.items()
)
