"""What gsd asks of a denoising network: one `NetworkKind` record per class of network.

A `Denoiser` is a network, its kind, and the preconditioning that turns the network's output into
D(x, sigma). A network's blocks and config keys are known to its kind's module, and to what builds or grows a
UNet2DModel: `core/training/fit_teacher.py` and `core/distillation/growth.py`.

To add a kind, write a module next to `unet2d.py` with a function per field below and one record,
and add the record to `NETWORK_KINDS` in `diffusers_folder.py`, and the check of its config to `CHECKS` in
`teacher_config.py`. A kind trained with another noise schedule
or prediction also needs its preconditioning in `denoiser.py` (and `schedule.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Network = Any
"""A network of a kind: an `nn.Module` with attributes that only its kind knows."""


@dataclass(frozen=True)
class NetworkKind:
    """Functions over the networks of one kind. `net` is a network, `config` the content of its config.json."""

    diffusers_class: str
    """The class of diffusers that reads and writes the network; empty for a class of gsd's own (`build`)."""
    class_names: tuple[str, ...]
    """Every `_class_name` that a config.json of this kind may hold; `teacher_config.py` checks their configs."""
    shape: Callable[[Network], tuple[int, int, int]]
    """(net): (C, H, W) of the input."""
    classes: Callable[[Network], int | None]
    """(net): the number of classes it is conditioned on; None for an unconditional network."""
    call: Callable[[Network, Tensor, Tensor, Tensor | None], Tensor]
    """(net, x [B, C, H, W], t [B], labels int64 [B] or None): the raw output [B, C, H, W]."""
    encode: Callable[[Network, Tensor, Tensor, bool], list[Tensor]]
    """(net, x [B, C, H, W], t [B], full): the encoder's maps [B, c, h, w] from fine to coarse, bottleneck
    last, without running the decoder and without classes; with `full` the full-resolution map comes first."""
    bottleneck: Callable[[Network], nn.Module]
    """(net): the module whose output [B, c, h, w] is the coarsest map; edits add to it."""
    output_layers: Callable[[Network], tuple[str, ...]]
    """(net): the names of the modules nearest to the pixels; pivotal tuning changes them alone."""
    build: Callable[[dict[str, Any]], Network] | None = None
    """(config): a network of gsd's own, with random weights. Raises GsdError (exit 3) for a wrong config."""
    config: Callable[[Network], dict[str, Any]] | None = None
    """(net): the content of config.json of a network of gsd's own."""
