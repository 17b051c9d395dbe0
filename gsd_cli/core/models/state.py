"""Reads the tensors of a network's weight files into the network that its config describes. No pickle is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import read_json
from gsd_cli.catalogue.diffusers_layout import DAMAGED_HINT, PICKLE, Weights
from gsd_cli.core.models.edm_tensors import read_tensors

_EARLIER_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""The layers of an attention in diffusers before 0.15."""


def read_state(weights: Weights) -> dict[str, Tensor]:
    """The tensors in weight files, by name. Raises GsdError (exit 3) for a pickle, and where a shard lacks tensors."""
    state: dict[str, Tensor] = {}
    for path in weights.files:
        state |= load_file(path) if weights.safe else _load_pickled(path)
    _require_whole(weights)
    return state


def load_state(net: nn.Module, state: dict[str, Tensor], folder: Path) -> None:
    """Fill a network with the tensors of its weight files, as float32.

    Names may have a prefix that all tensors share, as `_orig_mod.` (torch.compile) or `module.` (DataParallel). Raises
    GsdError (exit 3) where tensors are missing or have other shapes.
    """
    expected = net.state_dict()
    state = _with_expected_names(state, expected)
    if missing := sorted(expected.keys() - state.keys()):
        raise GsdError(
            f"the weights in {folder} lack {len(missing)} tensors, {missing[0]} first",
            hint=DAMAGED_HINT,
        )
    wrong = [name for name, value in expected.items() if state[name].shape != value.shape]
    if wrong:
        shapes = f"{tuple(state[wrong[0]].shape)}, {tuple(expected[wrong[0]].shape)} is needed"
        raise GsdError(f"cannot load the weights in {folder}: {wrong[0]} has the shape {shapes}", hint=DAMAGED_HINT)
    net.load_state_dict({name: state[name] for name in expected})


def _with_expected_names(state: dict[str, Tensor], expected: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors under the network's names: without a prefix that they share, and with attentions as named today."""
    anchor = next(iter(expected), "")
    prefixes = [name.removesuffix(anchor) for name in state if name.endswith(f".{anchor}")]
    if anchor not in state and len(prefixes) == 1:
        state = {name.removeprefix(prefixes[0]): value for name, value in state.items() if name.startswith(prefixes[0])}
    renamed = {}
    for name, value in state.items():
        *path, layer, last = ["", "", *name.split(".")]
        if name not in expected and layer in _EARLIER_NAMES:
            name = ".".join([*filter(None, path), _EARLIER_NAMES[layer], last])
            value = value.reshape(expected[name].shape) if name in expected else value
        renamed[name] = value
    return renamed


def _require_whole(weights: Weights) -> None:
    """Raise GsdError (exit 3) when a shard lacks a tensor that the index places in it."""
    if weights.index is None or not weights.safe:
        return
    placed = read_json(weights.index)["weight_map"]
    for path in weights.files:
        with safe_open(path, "pt") as file:
            there = set(file.keys())
        absent = sorted(key for key, name in placed.items() if name == path.name and key not in there)
        if absent:
            raise GsdError(
                f"{path} lacks {len(absent)} tensors that its index places there, {absent[0]} first", hint=DAMAGED_HINT
            )


def _load_pickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickle of either kind, with nothing in it executed."""
    return read_tensors(path) if path.suffix == PICKLE else _load_bin(path)


def _load_bin(path: Path) -> dict[str, Tensor]:
    """The tensors of a .bin file. Raises GsdError (exit 3) for anything but a plain dictionary of tensors."""
    try:
        found = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except Exception as error:
        raise GsdError(
            f"{path} is not a plain file of tensors",  # PyTorch's own message advises loading it anyway
            hint="gsd loads no pickles; convert the model to safetensors",
        ) from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise GsdError(f"{path} holds no tensors by name", hint="convert the model to safetensors")
    return found
