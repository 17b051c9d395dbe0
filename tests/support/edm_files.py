"""EDM's networks with random weights, and files in the format of NVIDIA's own (`edm-*.pkl`)."""

from __future__ import annotations

import io
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gsd_cli.core.models.edm_config import SONG, from_arguments
from gsd_cli.core.models.edm_unet import CLASSES, EdmUNet

_COMMON: dict[str, Any] = {"img_resolution": 32, "in_channels": 3, "out_channels": 3, "label_dim": 0, "augment_dim": 9}
CIFAR_DDPMPP: dict[str, Any] = {
    **_COMMON, "embedding_type": "positional", "encoder_type": "standard", "decoder_type": "standard",
    "channel_mult_noise": 1, "resample_filter": [1, 1], "model_channels": 128, "channel_mult": [2, 2, 2],
    "dropout": 0.13,
}  # fmt: skip
CIFAR_NCSNPP: dict[str, Any] = {
    **CIFAR_DDPMPP, "embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}  # fmt: skip
FFHQ_DDPMPP: dict[str, Any] = {**CIFAR_DDPMPP, "img_resolution": 64, "channel_mult": [1, 2, 2, 2], "dropout": 0.05}
IMAGENET_ADM: dict[str, Any] = {
    **_COMMON, "img_resolution": 64, "label_dim": 1000, "augment_dim": 0, "model_channels": 192,
    "channel_mult": [1, 2, 3, 4],
}  # fmt: skip
"""The arguments in the published files."""
SMALL: dict[str, Any] = {
    **CIFAR_DDPMPP, "img_resolution": 16, "augment_dim": 0, "model_channels": 16, "channel_mult": [1, 2],
    "num_blocks": 1,
}  # fmt: skip
"""DDPM++ for images of 16 x 16 in colour."""
TINY: dict[str, Any] = {
    **SMALL, "img_resolution": 8, "model_channels": 8, "channel_mult": [1, 1], "attn_resolutions": [],
}  # fmt: skip
"""The same of 15,000 parameters."""
ADM: dict[str, Any] = {
    **IMAGENET_ADM, "img_resolution": 16, "label_dim": 0, "model_channels": 64, "channel_mult": [1, 1], "num_blocks": 1,
    "channel_mult_emb": 1,
}  # fmt: skip
CODE = "import os; os.system('echo ran')"


def random_net(name: str, arguments: dict[str, Any], seed: int = 0) -> EdmUNet:
    """A network with random weights, frozen, in evaluation mode."""
    torch.manual_seed(seed)
    return CLASSES[name](from_arguments(name, arguments).to_json(name)).eval().requires_grad_(False)


# -- files ------------------------------------------------------------------------------------------

_ATTRIBUTES = ("training", "_parameters", "_buffers", "_non_persistent_buffers_set", "_modules")
_PUBLISHED = {"Block": "UNetBlock", "Convolution": "Conv2d"}


class Persistent:
    """An object of a class that a file of StyleGAN's `persistence` carries the source of."""

    def __init__(self, class_name: str, state: dict[str, Any]):
        self.class_name, self.state = class_name, state


def persistent(module: nn.Module, arguments: dict[str, Any] | None = None) -> Persistent:
    """A module as such a file holds it. Blocks carry a number of NumPy's, as the published ones do."""
    state = {key: value for key, value in vars(module).items() if key in _ATTRIBUTES or key.endswith("_hooks")}
    name = type(module).__name__
    if name == "Block":
        state["skip_scale"] = np.sqrt(0.5)
    state |= {"_init_args": (), "_init_kwargs": arguments or {}}
    return Persistent(_PUBLISHED.get(name, name), state)


def edm(net: EdmUNet, arguments: dict[str, Any], precondition: str = "EDMPrecond", **facts: Any) -> Persistent:
    """A network inside its preconditioning."""
    whole = nn.Module()
    whole.add_module("model", net)
    found = persistent(whole, {"model_type": type(net).__name__})
    found.class_name = precondition
    found.state |= {"sigma_min": 0, "sigma_max": float("inf"), "sigma_data": 0.5, "use_fp16": False, **facts}
    found.state["_modules"] = {"model": persistent(net, arguments)}
    return found


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        """Modules, and stand-ins for them, in the form of `persistence`; a ModuleDict as pickle would."""
        if isinstance(value, nn.ModuleDict):
            return NotImplemented
        if isinstance(value, nn.Module):
            value = persistent(value)
        if isinstance(value, Persistent):
            facts = {"type": "class", "version": 6, "module_src": CODE, "class_name": value.class_name,
                     "state": value.state}  # fmt: skip
            return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (facts,)
        return NotImplemented


def to_bytes(content: Any, protocol: int = 4) -> bytes:
    """A pickle that asks for torch_utils.persistence, which exists only while it is written."""
    package, module = types.ModuleType("torch_utils"), types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta: Any) -> None:
        raise AssertionError("code of a file was run")

    _reconstruct_persistent_obj.__module__ = module.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    module._reconstruct_persistent_obj = _reconstruct_persistent_obj  # type: ignore[attr-defined]
    sys.modules |= {"torch_utils": package, "torch_utils.persistence": module}
    try:
        buffer = io.BytesIO()
        _Pickler(buffer, protocol).dump(content)
        return buffer.getvalue()
    finally:
        del sys.modules["torch_utils"], sys.modules["torch_utils.persistence"]


def write_edm(
    path: Path, name: str = SONG, arguments: dict[str, Any] | None = None, seed: int = 0, **facts: Any
) -> EdmUNet:
    """Write a file as EDM's training does; returns the network in it. facts: see `edm`."""
    arguments = arguments or (SMALL if name == SONG else ADM)
    net = random_net(name, arguments, seed)
    content = {
        "ema": edm(net, arguments, **facts), "loss_fn": Persistent("EDMLoss", {"P_mean": -1.2, "sigma_data": 0.5}),
        "augment_pipe": Persistent("AugmentPipe", {"p": 0.12, "xflip": 1e8}), "dataset_kwargs": {"xflip": False},
    }  # fmt: skip
    path.write_bytes(to_bytes(content))
    return net
