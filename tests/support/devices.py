"""A pretended GPU: tensors on it hold real values, and mixing it with the CPU is an error, as on a real GPU.

`PRETEND` is torch's `meta` device by name, so that autograd needs no driver. Inside `pretend()`, tensors on it keep
their values, and the CPU computes the results. What a GPU would refuse is refused: operands on two devices, and
`.numpy()` of a tensor that is not on the CPU. Reads that make the host wait are counted, and so are copies to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

from gsd_cli.compute import device as device_module

PRETEND = torch.device("meta")
CPU = torch.device("cpu")
aten = torch.ops.aten

CROSSING = {aten._to_copy.default, aten.copy_.default}
"""Operations whose operands may be on two devices."""
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._unsafe_index.Tensor}
"""Operations that take indices from the CPU for values on the device (not the other way round)."""
READS = {aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default, aten.masked_select.default}
"""Operations that make the host wait for a value or a size."""


class OnDevice(Tensor):
    """A tensor on the pretended device; `held` is the real tensor, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        made: OnDevice = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            layout=held.layout, device=PRETEND, requires_grad=False,
        )  # fmt: skip
        made.held = held
        return made

    def tolist(self) -> Any:
        """Like torch's method, which refuses subclasses."""
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        """Refused, as on a GPU."""
        raise TypeError(f"can't convert {PRETEND} device type tensor to numpy; copy it to the CPU first")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {}, Counter())


class Pretend(TorchDispatchMode):
    """A context in which the pretended device exists.

    waits: how often the host waited for the device, by operation. copies: how often tensors were copied to it. float64:
    whether the device has it, unlike Apple's.
    """

    def __init__(self, *, float64: bool = True) -> None:
        super().__init__()
        self.float64 = float64
        self.waits: Counter[str] = Counter()
        self.copies: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _arrives(func, args, kwargs or {}):
            self.copies[str(func)] += 1
        out = _run(func, args, kwargs or {}, self.waits)
        if not self.float64:
            for value in _flat([out]):
                if isinstance(value, OnDevice) and value.dtype == torch.float64:
                    raise TypeError(f"{func}: the device has no float64")
        return out


@contextmanager
def pretend(*, float64: bool = True) -> Iterator[Pretend]:
    """A context in which tensors on `PRETEND` have values."""
    with pytest.MonkeyPatch.context() as patch, Pretend(float64=float64) as mode:
        if not float64:
            patch.setattr(device_module, "has_float64", lambda device: device != PRETEND)
        # these two make a tensor from numbers without a dispatch
        for function in (torch.tensor, torch.as_tensor):
            patch.setattr(torch, function.__name__, partial(_from_numbers, function))
        with _own_constants(patch):
            yield mode


@contextmanager
def _own_constants(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Constants are copied to `PRETEND` anew: a copy that was made outside `pretend()` has no values."""
    copied: set[device_module.DeviceConstant] = set()
    usual = device_module.DeviceConstant.on

    def on(constant: device_module.DeviceConstant, device: torch.device) -> Tensor:
        if constant not in copied:
            copied.add(constant)
            constant._copies.pop(PRETEND, None)
        return usual(constant, device)

    patch.setattr(device_module.DeviceConstant, "on", on)
    try:
        yield
    finally:
        for constant in copied:
            constant._copies.pop(PRETEND, None)


def _from_numbers(function: Callable[..., Tensor], data: Any, **kwargs: Any) -> Tensor:
    device = kwargs.get("device")
    if device is None or torch.device(device) != PRETEND:
        return function(data, **kwargs)
    if isinstance(data, Tensor):
        return data.to(device, kwargs.get("dtype"))
    return function(data, **{**kwargs, "device": CPU}).to(device)


def _run(func: Any, args: Any, kwargs: dict[str, Any], waits: Counter[str]) -> Any:
    operands = [value for value in _flat([*args, *kwargs.values()]) if isinstance(value, Tensor)]
    here = any(isinstance(value, OnDevice) for value in operands)
    asked = kwargs.get("device")
    if not here and asked is None:
        return func(*args, **kwargs)
    asked = None if asked is None else torch.device(asked)
    if here and func not in CROSSING:
        _require_one_device(func, args, operands)
    if here and (func in READS or (func is aten._to_copy.default and asked == CPU) or _leaves(func, args)):
        waits[str(func)] += 1
    wrapped = (here and asked is None) or asked == PRETEND
    if func is aten.copy_.default:
        wrapped = isinstance(args[0], OnDevice)
    if func is aten.equal.default or func is aten._local_scalar_dense.default:
        wrapped = False
    if any(value.device == PRETEND and not isinstance(value, OnDevice) for value in operands):
        raise RuntimeError(f"{func}: a tensor made on {PRETEND} past every dispatch, such as a list of indices")
    real = {name: _change(value, _unwrap) for name, value in kwargs.items()}
    if asked == PRETEND:
        real["device"] = CPU
    out = func(*(_change(value, _unwrap) for value in args), **real)
    if not wrapped:
        return out
    found = _change(out, _wrap)
    return return_and_correct_aliasing(func, args, kwargs, found) if here and _aliases(func) else found


@cache
def _aliases(func: Any) -> bool:
    """Whether a result shares an operand's memory."""
    return any(value.alias_info is not None for value in (*func._schema.arguments, *func._schema.returns))


def _flat(values: Any) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def _change(value: Any, change: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_change(one, change) for one in value)
    return change(value)


def _unwrap(value: Any) -> Any:
    return value.held if isinstance(value, OnDevice) else value


def _wrap(value: Any) -> Any:
    return OnDevice(value) if type(value) is Tensor else value


def _leaves(func: Any, args: Any) -> bool:
    """Whether a copy goes from the device to the CPU."""
    return func is aten.copy_.default and isinstance(args[1], OnDevice) and not isinstance(args[0], OnDevice)


def _arrives(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    """Whether a copy goes from the CPU to the device. A number that fills a tensor there is not copied."""
    if func is aten.copy_.default:
        return isinstance(args[0], OnDevice) and not isinstance(args[1], OnDevice)
    asked = kwargs.get("device")
    return func is aten._to_copy.default and asked == PRETEND and not isinstance(args[0], OnDevice)


def _require_one_device(func: Any, args: Any, operands: list[Tensor]) -> None:
    """Raise RuntimeError for operands on two devices; numbers, and indices from the CPU, may join values anywhere."""
    if func in INDEXING and isinstance(args[0], OnDevice):
        indices = {id(index) for index in args[1] if index is not None}
        operands = [value for value in operands if id(value) not in indices]
    strangers = [value for value in operands if not isinstance(value, OnDevice) and value.ndim > 0]
    if strangers:
        shapes = ", ".join(str(tuple(value.shape)) for value in strangers)
        raise RuntimeError(f"{func}: expected all tensors on one device, found on the CPU: {shapes}")
