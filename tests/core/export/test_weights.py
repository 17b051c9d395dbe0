"""Weights in fewer bits."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from gsd_cli.core.export.weights import LARGE, nearest_bytes, shrink_weights

WEIGHTS = arrays.arrays(
    np.float32, arrays.array_shapes(min_dims=2, max_dims=4, max_side=5), elements=st.floats(-1e3, 1e3, width=32)
)


@given(WEIGHTS)
def test_bytes_are_within_half_a_step(value: np.ndarray) -> None:
    levels, scale = nearest_bytes(value)
    assert levels.dtype == np.int8
    assert np.abs(levels.astype(int)).max() <= 127
    assert (np.abs(levels * scale.astype(np.float64) - value) <= 0.5001 * scale + 1e-30).all()
    assert scale.size in (value.shape[0], value.shape[-1])


def test_the_better_axis_is_taken() -> None:
    rows = (np.array([[1.0], [3.0], [9.0]]) * np.random.default_rng(0).uniform(0.5, 1, (3, 7))).astype(np.float32)
    assert nearest_bytes(rows)[1].shape == (3, 1)
    assert nearest_bytes(np.ascontiguousarray(rows.T))[1].shape == (1, 3)


def product(weight: np.ndarray, bias: np.ndarray) -> onnx.ModelProto:
    """x @ weight + bias."""
    given_, found = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", None]) for name in ("x", "y"))
    nodes = [helper.make_node("MatMul", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "bias"], ["y"])]
    stored = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "bias")]
    return helper.make_model(helper.make_graph(nodes, "g", [given_], [found], stored))


@pytest.mark.parametrize(("precision", "share", "error"), [("fp32", 1, 0), ("fp16", 0.51, 1e-3), ("int8", 0.28, 2e-2)])
def test_a_graph_of_fewer_bits_computes_nearly_the_same(precision: str, share: float, error: float) -> None:
    """ONNX's own reference implementation runs it."""
    rng = np.random.default_rng(0)
    weight, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((64, 64), (LARGE,)))
    proto = product(weight, bias[:64])
    before, size = ReferenceEvaluator(proto), proto.ByteSize()
    shrunk = product(weight, bias[:64])
    shrink_weights(shrunk, precision)
    onnx.checker.check_model(shrunk, full_check=True)
    assert shrunk.ByteSize() <= share * size + 300
    x = rng.standard_normal((5, 64)).astype(np.float32)
    (wanted,), (found,) = before.run(None, {"x": x}), ReferenceEvaluator(shrunk).run(None, {"x": x})
    difference = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert difference <= error
    assert (difference > 0) == (precision != "fp32")
