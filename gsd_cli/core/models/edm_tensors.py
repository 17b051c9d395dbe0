"""The tensors in a file that EDM or SiD wrote, with nothing in it executed."""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.catalogue.diffusers_layout import DAMAGED_HINT
from gsd_cli.core.models.edm_pickle import PARAMETER, STORAGE, TENSOR, read_tensor_calls
from gsd_cli.core.models.inert_pickle import Call, Refused


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of the file's network, by name, on the CPU. Raises GsdError (exit 3)."""
    found: dict[str, Tensor] = {}
    storages: dict[int, Tensor] = {}
    for name, call in read_tensor_calls(path).items():
        try:
            found[name] = _tensor(call, storages)
        except Exception as error:  # PyTorch raises many kinds for damaged bytes; some advise to load them anyway
            cause = str(error) if isinstance(error, Refused) else "its bytes are no tensor"
            raise GsdError(f"{path}: {name[:80]} cannot be read: {cause}", hint=DAMAGED_HINT) from error
    return found


def _tensor(call: Call, storages: dict[int, Tensor]) -> Tensor:
    """The tensor that a call stands for. storages: those that were read, by the identity of their record."""
    if str(call.name) == PARAMETER:
        call = call.arguments[0]
    if not isinstance(call, Call) or str(call.name) != TENSOR:
        raise Refused("it is no tensor")
    storage, offset, size, stride = call.arguments[:4]
    if id(storage) not in storages:
        storages[id(storage)] = _storage(storage)
    flat = storages[id(storage)]
    if not (_counts((offset,)) and _counts(size) and _counts(stride) and len(size) == len(stride)):
        raise Refused("its shape is not made of numbers")
    if math.prod(size) > len(flat):  # a stride of 0 would make many numbers of one
        raise Refused("it has fewer numbers than its shape")
    return flat.as_strided(size, stride, offset).clone()


def _storage(call: Any) -> Tensor:
    """The numbers of a storage, [N]."""
    if not isinstance(call, Call) or str(call.name) != STORAGE or len(call.arguments) != 1:
        raise Refused("it has no numbers")
    raw = call.arguments[0]
    if not isinstance(raw, bytes):
        raise Refused("its numbers are no bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of storages with a type, which are what such files hold
        storage = torch.load(io.BytesIO(raw), weights_only=True, map_location="cpu")
        if not isinstance(storage, torch.storage.TypedStorage) or not storage.dtype.is_floating_point:
            raise Refused("its numbers are not floating-point ones")
        return torch.empty(0, dtype=storage.dtype).set_(storage)  # type: ignore[call-overload,no-any-return]


def _counts(values: Any) -> bool:
    return isinstance(values, tuple) and all(type(one) is int and 0 <= one < 2**40 for one in values)
