"""What gsd asks of a denoising network: one `NetworkKind` record per class of network.

A `Denoiser` is a network, its kind, and the preconditioning that turns the network's output into
D(x, sigma). A network's blocks and config keys are known to its kind's module, and to what builds or grows a
UNet2DModel: `core/training/unets.py` and `core/distillation/growth.py`.

To add a kind, write a module next to `unet2d.py` with a function per field below and one record,
and add the record to `NETWORK_KINDS` in `diffusers_folder.py`, and the check of its config to `CHECKS` in
`teacher_config.py`. A network trained with another noise schedule or prediction also needs a kind of diffusion:
a module like `flow_schedule.py`, named in `schedules.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.flow_pipeline import FlowPipeline
from gsd_cli.core.models.own_network import OwnNetwork
from gsd_cli.core.models.text_sizes import TextSizes

Network = Any
"""A network of a kind: an `nn.Module` with attributes that only its kind knows."""


@dataclass(frozen=True)
class PipelineLayout:
    """How diffusers stores a latent model of a kind: the folders of the network and of the autoencoder, the class of
    the pipeline that opens them, and whether its index names the classes (`id2label`)."""

    network: str
    autoencoder: str
    pipeline: str
    names_classes: bool = False


@dataclass(frozen=True)
class NetworkKind:
    """Functions over the networks of one kind. `net` is a network, `config` the content of its config.json."""

    diffusers_class: str
    """The class of diffusers that reads and writes the network."""
    class_names: tuple[str, ...]
    """Every `_class_name` that a config.json of this kind may hold; `teacher_config.py` checks their configs."""
    shape: Callable[[Network], tuple[int, int, int]]
    """(net): (C, H, W) of the input."""
    classes: Callable[[Network], int | None]
    """(net): the number of classes it is conditioned on; None for an unconditional network."""
    call: Callable[[Network, Tensor, Tensor, Condition], Tensor]
    """(net, x [B, C, H, W], t [B], the condition of B images): the output [B, C, H, W], or [B, 2 C, H, W] of
    a network that also predicts a variance, which comes second."""
    encode: Callable[[Network, Tensor, Tensor, bool], list[Tensor]]
    """(net, x [B, C, H, W], t [B], full): the encoder's maps [B, c, h, w] from fine to coarse, bottleneck
    last, without running the decoder and without a condition; with `full` the full-resolution map comes first."""
    bottleneck: Callable[[Network], nn.Module]
    """(net): the module whose output is the coarsest map; edits add to it."""
    output_layers: Callable[[Network], tuple[str, ...]]
    """(net): the names of the modules nearest to the pixels; pivotal tuning changes them alone."""
    to_map: Callable[[Network, Any], Tensor] = lambda net, output: output
    """(net, output of the bottleneck): the same as a map [B, c, h, w]."""
    from_map: Callable[[Network, Tensor, Any], Any] = lambda net, features, output: features
    """(net, map [B, c, h, w], output of the bottleneck): that output with the map in it, the inverse of `to_map`."""
    text_sizes: Callable[[Network], TextSizes | None] = lambda net: None
    """(net): what it takes of a text; None for a network that is not conditioned on texts."""
    null_class: Callable[[Network], int | None] = lambda net: None
    """(net): the class that was trained to stand for any, which is none of `classes`; None without one."""
    prepare: Callable[[Network], None] = lambda net: None
    """(net): set the network up for gsd; called once, before it is used."""
    apart: Callable[[Network], Sequence[nn.Module]] = lambda net: ()
    """(net): parts of its blocks that it also calls without their block."""
    flow_pipeline: Callable[[Network], FlowPipeline | None] = lambda net: None
    """(net): what its pipeline makes of a flow's scheduler; None where images have no patches."""
    layout: PipelineLayout = PipelineLayout("unet", "vqvae", "LDMPipeline")
    own_keys: tuple[str, ...] = ()
    """What gsd adds to its config, and the class of diffusers does not read."""
    own_class: type[OwnNetwork] | None = None
    """gsd's own class of the network, which diffusers cannot open; None for a class of diffusers."""

    def build(self, config: Mapping[str, Any]) -> Network:
        """The network of a config, with the weights that torch draws."""
        if self.own_class is not None:
            return self.own_class.from_config(dict(config))
        import diffusers  # takes a second to import

        own = {key: config[key] for key in self.own_keys if key in config}
        given = {key: value for key, value in config.items() if key not in own}
        net = getattr(diffusers, self.diffusers_class).from_config(given)
        net.register_to_config(**own)
        return net
