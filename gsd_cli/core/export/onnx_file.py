"""Writes a generator as one ONNX file."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gsd_cli.base.atomic import atomic_file
from gsd_cli.base.errors import GsdError
from gsd_cli.base.session import Session
from gsd_cli.base.text import format_bytes
from gsd_cli.catalogue.exports import PRECISIONS, require_onnx
from gsd_cli.core.export.check import Call, compare, require_close
from gsd_cli.core.export.exported import IMAGES, SHIFT, ExportedGenerator
from gsd_cli.core.export.metadata import describe_model
from gsd_cli.core.export.onnx_generator import open_session
from gsd_cli.core.export.record import Export
from gsd_cli.core.export.trace import explain_failure, record_program
from gsd_cli.core.export.weights import shrink_weights
from gsd_cli.core.models.generator import Model

OPSET = 20
LARGEST = 2**31 - 2**20
"""Bytes that an ONNX file can hold: a limit of its container, with room for the graph."""
TINY = ("SanaTransformer2DModel", "AutoencoderDC")
"""Networks of diffusers whose linear attention adds 1e-15 to a sum that may be zero, and then divides by it. The
exporter's optimizer takes such a number for zero."""
NUMBER_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}


def write_onnx(model: Model, path: Path, precision: str, session: Session, *, require_shift: bool = False) -> Export:
    """Write a generator, on the CPU, as an ONNX file, after its images were compared with torch's.

    The inputs are `z` [B, *latent_shape]; `shift` [B or 1, c, h, w], added to the bottleneck, zeros by default (with
    `require_shift` there is no default: onnxruntime-web takes no inputs that have one); `class` int64 [B] or the
    tensors of a text. The output `images` [B, *image_shape] is in [-1, 1].

    Raises GsdError: exit 3 where the extra is missing, the network has an operator that ONNX lacks, the file would be
    too large, or its images differ; exit 8 where it cannot be written.
    """
    require_onnx()
    begun = time.perf_counter()
    require_size(model, precision)
    whole = ExportedGenerator(model.generator)
    with session.progress("exporting to ONNX"), atomic_file(path) as temporary:
        proto = _trace(whole, model.name)
        _strip(proto)
        _name_batches(proto)
        shrink_weights(proto, precision)
        if not require_shift:  # after the weights, because it is none
            _give_default_shift(proto, whole)
        _add_metadata(proto, describe_model(model, precision))
        temporary.write_bytes(proto.SerializeToString())
        found = compare(whole, _caller(temporary), session, leave_out=not require_shift)
        require_close(found, precision, path.name)
    return Export(path, precision, path.stat().st_size, time.perf_counter() - begun, found)


def require_size(model: Model, precision: str) -> None:
    """Raise GsdError (exit 3) for a model that is larger than an ONNX file can be."""
    size = NUMBER_BYTES[precision] * sum(p.numel() for p in model.generator.parameters())
    if size <= LARGEST:
        return
    smaller = [name for name in PRECISIONS if NUMBER_BYTES[name] * size // NUMBER_BYTES[precision] <= LARGEST]
    raise GsdError(
        f"{model.name} has {format_bytes(size)} of weights in {precision}, an ONNX file holds {format_bytes(LARGEST)}",
        hint=f"--export-precision {smaller[0]}, or --export FILE.pt2" if smaller else "--export FILE.pt2",
    )


def _trace(whole: ExportedGenerator, name: str) -> Any:
    """The graph as a `ModelProto`."""
    program = record_program(whole, name)
    with explain_failure(name), torch.no_grad():
        made: Any = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, input_names=list(whole.names), output_names=[IMAGES],
            verbose=False, optimize=not any(type(part).__name__ in TINY for part in whole.modules()),
        )  # fmt: skip
        return made.model_proto


def _strip(proto: Any) -> None:
    """Remove what the exporter notes of every node: traces of source lines, which may be half of a small file."""
    for part in (*proto.graph.node, *proto.graph.initializer, *proto.graph.input, *proto.graph.output):
        del part.metadata_props[:]
        part.doc_string = ""
    del proto.graph.metadata_props[:]


def _name_batches(proto: Any) -> None:
    """Give the first axis of inputs and outputs a name that people read; that of the shift may be 1."""
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "shift_batch" if value.name == SHIFT else "batch"
    del proto.graph.value_info[:]  # they hold the old names


def _give_default_shift(proto: Any, whole: ExportedGenerator) -> None:
    """Make the shift an input that may be left out: an initializer of the same name, of one image."""
    if whole.shift_shape is None:
        return
    from onnx import numpy_helper

    default = torch.zeros(1, *whole.shift_shape).numpy()
    proto.graph.initializer.append(numpy_helper.from_array(default, SHIFT))


def _add_metadata(proto: Any, metadata: Mapping[str, str]) -> None:
    proto.producer_name, proto.producer_version = "gsd", metadata["gsd_version"]
    proto.doc_string = metadata["model_card"]
    del proto.metadata_props[:]
    for name, value in metadata.items():
        proto.metadata_props.add(key=name, value=value)


def _caller(path: Path) -> Call:
    """The file as a function of tensors by name."""
    opened = open_session(path)

    def call(inputs: Mapping[str, Tensor]) -> Tensor:
        (images,) = opened.run(None, {name: value.contiguous().numpy() for name, value in inputs.items()})
        return torch.from_numpy(images)

    return call
