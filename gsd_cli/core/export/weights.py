"""Weights of an ONNX graph stored in fewer bits. Calls stay in float32: a runtime widens the weights when it opens the
file, so that a small file is as fast as a large one on every device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

LARGE = 1024
"""Tensors of fewer numbers stay in float32, as do vectors: biases and norms."""
LEVELS = 127
"""The largest int8 number that is used: symmetric, so that zero stays zero."""

Nodes = tuple[list[Any], list[Any]]
"""Initializers, and the nodes that turn them into one float32 tensor."""


def shrink_weights(proto: Any, precision: str) -> None:
    """Store the large weights of an ONNX `ModelProto` in `precision` (fp16 or int8), in place; fp32 is a no-op."""
    if precision == "fp32":
        return
    from onnx import TensorProto, numpy_helper

    store: Callable[[str, np.ndarray], Nodes] = {"fp16": _half, "int8": _byte}[precision]
    kept, nodes = [], []
    for tensor in proto.graph.initializer:
        value = numpy_helper.to_array(tensor) if tensor.data_type == TensorProto.FLOAT else None
        if value is None or value.ndim < 2 or value.size < LARGE:
            kept.append(tensor)
            continue
        tensors, widen = store(tensor.name, value)
        kept += tensors
        nodes += widen
    before = list(proto.graph.node)
    del proto.graph.initializer[:], proto.graph.node[:]
    proto.graph.initializer.extend(kept)
    proto.graph.node.extend([*nodes, *before])


def _half(name: str, value: np.ndarray) -> Nodes:
    from onnx import TensorProto, helper, numpy_helper

    short = numpy_helper.from_array(value.astype(np.float16), f"{name}.fp16")
    return [short], [helper.make_node("Cast", [short.name], [name], to=TensorProto.FLOAT)]


def _byte(name: str, value: np.ndarray) -> Nodes:
    """Integers times a scale per row or per column, as `nearest_bytes` chooses."""
    from onnx import TensorProto, helper, numpy_helper

    levels, scale = nearest_bytes(value)
    tensors = [numpy_helper.from_array(levels, f"{name}.int8"), numpy_helper.from_array(scale, f"{name}.scale")]
    wide = f"{name}.levels"
    cast = helper.make_node("Cast", [tensors[0].name], [wide], to=TensorProto.FLOAT)
    return tensors, [cast, helper.make_node("Mul", [wide, tensors[1].name], [name])]


def nearest_bytes(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 levels of value's shape and float32 scales to multiply them by, one per index of the first or last axis.

    The axis with the smaller squared error is taken: a convolution has its outputs first, a matrix product last.
    """
    found = [_round(value, axis) for axis in (0, value.ndim - 1)]
    return min(found, key=lambda pair: np.square(pair[0] * pair[1] - value).sum(dtype=np.float64))


def _round(value: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    others = tuple(k for k in range(value.ndim) if k != axis)
    scale = (np.abs(value).max(axis=others, keepdims=True) / LEVELS).astype(np.float32)
    scale[scale == 0] = 1
    return np.rint(value / scale).astype(np.int8), scale
