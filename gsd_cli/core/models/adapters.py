"""LoRA adapters (Hu et al. 2022): networks that share one frozen base and each train small matrices of their own.

An adapted layer computes W x + B A x, with A and B of rank R. B starts at zero: an adapted network starts as its base.
The layers are peft's, which the extra `adapters` installs.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.compute.random import generator_for
from gsd_cli.core.models.denoiser import Denoiser

NAME = "default"
"""peft's name of the one adapter that a network here has."""
Module = TypeVar("Module", bound=nn.Module)


def adapt(denoiser: Denoiser, rank: int, seed: int, stream: str, base: Denoiser | None = None) -> Denoiser:
    """A denoiser with adapters of this rank, trainable, on the weights of `denoiser`, which are shared and frozen.

    All convolutions and linear layers that are larger than their adapter get one. The matrices depend on (seed, stream)
    alone. base: the same network in another precision or on another device, whose weights are shared instead; the
    adapters are float32 all the same. Raises GsdError (exit 2) without the package peft, or where the rank is too large
    for every layer.
    """
    peft = _import_peft()
    adapted = copy_trained(denoiser.requires_grad_(False))
    names = [name for name, layer in adapted.net.named_modules() if _adapter_size(layer, rank)]
    if not names:
        raise GsdError(
            f"--adapters: rank {rank} is as large as the teacher's own layers", hint="give a smaller rank, as in 16",
            code=ExitCode.USAGE,
        )  # fmt: skip
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules="|".join(map(re.escape, names)))
    state = torch.get_rng_state()
    try:
        torch.manual_seed(generator_for(seed, "adapters", stream).initial_seed())
        peft.inject_adapter_in_model(config, adapted.net, NAME)
    finally:
        torch.set_rng_state(state)
    if base is None or base is denoiser:
        return adapted
    # now, since peft gives its matrices the type of the weights that it finds
    return on_base(adapted, denoiser, base.requires_grad_(False)).to(base.device)


def on_base(module: Module, base: nn.Module, other: nn.Module) -> Module:
    """A copy of a module that has the parameters of `other` where it has those of `base`, and shares all others.

    base, other: the same network in two precisions or on two devices.
    """
    shared = {id(p): p for p in module.parameters()}
    exchanged = {id(a): b for a, b in zip(base.parameters(), other.parameters(), strict=True)}
    copied: Module = copy.deepcopy(module, shared | exchanged)
    return copied


def copy_trained(module: Module) -> Module:
    """A copy of a module that shares the parameters that need no gradient; of one that trains all, a deep copy."""
    shared = {id(p): p for p in module.parameters() if not p.requires_grad}
    copied: Module = copy.deepcopy(module, dict(shared))
    return copied


def is_adapted(module: nn.Module) -> bool:
    """Whether a module has adapters."""
    return next(_adapted_layers(module), None) is not None


def trained_names(module: nn.Module) -> set[str]:
    """The entries of a module's state dict that are trained: all but the frozen base under adapters."""
    names = set(module.state_dict())
    return {name for name in names if ".lora_" in name} if is_adapted(module) else names


def adapter_parameters(denoiser: Denoiser, rank: int) -> int:
    """The number of parameters that adapters of this rank would have."""
    return sum(_adapter_size(layer, rank) for layer in denoiser.net.modules())


def merge(denoiser: Denoiser) -> Denoiser:
    """A plain copy on the CPU with the adapters added to the weights, W + B A. `denoiser` keeps its adapters and base.

    A device that a large network fills has no room for another.
    """
    on_cpu = {id(p): nn.Parameter(p.detach().to("cpu", copy=True), False) for p in denoiser.parameters()}
    merged = copy.deepcopy(denoiser, dict(on_cpu)).to("cpu")
    for name, layer in list(_adapted_layers(merged.net)):
        layer.merge()
        parent, _, own = name.rpartition(".")
        setattr(merged.net.get_submodule(parent), own, layer.base_layer)
    for left in ("peft_config", "_hf_peft_config_loaded"):
        merged.net.__dict__.pop(left, None)
    return merged


def save_adapters(denoiser: Denoiser, path: Path, *, half: bool) -> None:
    """Write the adapters alone, as diffusers' `load_lora_weights` reads them for the teacher."""
    kind = torch.float16 if half else torch.float32
    part = denoiser.kind.layout.network  # diffusers' pipelines expect the names to begin with that of the network
    save_file({f"{part}.{name}": value.to(kind).cpu().contiguous() for name, value in _matrices(denoiser)}, path)


def _matrices(denoiser: Denoiser) -> Iterator[tuple[str, Tensor]]:
    """The matrices A and B by layer, without the name of the adapter in their names."""
    for name, value in denoiser.net.state_dict().items():
        if ".lora_" in name:
            yield name.replace(f".{NAME}.", "."), value


def _adapted_layers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, layer) for name, layer in module.named_modules() if hasattr(layer, "lora_A"))


def _adapter_size(layer: nn.Module, rank: int) -> int:
    """The parameters of a layer's adapter; 0 for a layer that gets none."""
    if type(layer) is nn.Linear:
        size = rank * (layer.in_features + layer.out_features)
    elif type(layer) is nn.Conv2d and layer.groups == 1:
        size = rank * (layer.in_channels * layer.kernel_size[0] * layer.kernel_size[1] + layer.out_channels)
    else:
        return 0
    return size if size < layer.weight.numel() else 0


def _import_peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise GsdError(
            "--adapters needs the package peft, which is not installed", hint="pip install 'gsd-cli[adapters]'",
            code=ExitCode.USAGE,
        ) from error  # fmt: skip
    return peft
