"""Writes a generator as one ONNX file."""

from __future__ import annotations

import logging
import re
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gsd_cli.base.atomic import atomic_file
from gsd_cli.base.errors import GsdError, out_of_memory
from gsd_cli.base.session import Session
from gsd_cli.base.text import format_bytes
from gsd_cli.core.export.check import SEEDS, compare, require_close
from gsd_cli.core.export.exported import IMAGES, SHIFT, ExportedGenerator
from gsd_cli.core.export.metadata import describe_model
from gsd_cli.core.export.weights import shrink_weights
from gsd_cli.core.models.generator import Model

OPSET = 20
PRECISIONS = ("fp32", "fp16", "int8")
LARGEST = 2**31 - 2**20
"""Bytes that an ONNX file can hold: a limit of its container, with room for the graph."""
NUMBER_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
NEEDED = ("onnx", "onnxruntime", "onnxscript")


@dataclass(frozen=True)
class Export:
    """An exported file. largest, rms: the difference of its images from torch's, pixels in [-1, 1], over `seeds`
    seeds."""

    path: Path
    precision: str
    bytes: int
    seconds: float
    largest: float
    rms: float
    seeds: int = SEEDS


def require_extra() -> None:
    """Raise GsdError (exit 3) without the packages that read and write ONNX. Imports none of them."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise GsdError(f"ONNX needs {' and '.join(missing)}", hint="pip install 'gsd-cli[export]'")


def write_onnx(model: Model, path: Path, precision: str, session: Session, *, require_shift: bool = False) -> Export:
    """Write a generator, on the CPU, as an ONNX file, after its images were compared with torch's.

    The inputs are `z` [B, *latent_shape]; `shift` [B or 1, c, h, w], added to the bottleneck, zeros by default (with
    `require_shift` there is no default: onnxruntime-web takes no inputs that have one); `class` int64 [B] or the
    tensors of a text. The output `images` [B, *image_shape] is in [-1, 1].

    Raises GsdError: exit 3 where the extra is missing, the network has an operator that ONNX lacks, the file would be
    too large, or its images differ; exit 8 where it cannot be written.
    """
    require_extra()
    begun = time.perf_counter()
    require_size(model, precision)
    whole = ExportedGenerator(model.generator.float().cpu().eval().requires_grad_(False)).eval()
    with session.progress("exporting to ONNX"), atomic_file(path) as temporary:
        proto = _trace(whole, model.name)
        _strip(proto)
        _name_batches(proto)
        if not require_shift:
            _give_default_shift(proto, whole)
        shrink_weights(proto, precision)
        _add_metadata(proto, describe_model(model, precision))
        temporary.write_bytes(proto.SerializeToString())
        found = compare(whole, _caller(temporary), session, leave_out=not require_shift)
        require_close(found, precision, path.name)
    return Export(path, precision, path.stat().st_size, time.perf_counter() - begun, found.largest, found.rms)


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
    examples = whole.examples()
    batches = tuple({0: torch.export.Dim.DYNAMIC} for _ in examples)
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(whole, tuple(examples.values()), dynamic_shapes=(batches,))
            made: Any = torch.onnx.export(
                program, dynamo=True, opset_version=OPSET, input_names=list(examples), output_names=[IMAGES],
                verbose=False,
            )  # fmt: skip
        return made.model_proto
    except Exception as error:  # the exporters raise errors of many classes
        if out_of_memory(error):
            raise
        raise GsdError(f"{name} cannot be exported: {find_cause(error)}", hint="gsd sample --model runs it") from error


def find_cause(error: BaseException) -> str:
    """What an exporter failed on: the operator, if its messages name one, else the first line of the last message."""
    messages: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(messages) < 10:
        messages.append(str(seen))
        seen = seen.__cause__ or seen.__context__
    for message in reversed(messages):
        if named := re.search(r"\b(?:aten|prims|torchvision|quantized|onnx)(?:\.|::)\w+(?:\.\w+)?", message):
            return f"it has no form for the operator {named[0]}"
    lines = [line.strip() for line in messages[-1].splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:200]


@contextmanager
def _quiet() -> Iterator[None]:
    """A context without the notes of the exporters, which are for their developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


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


def _caller(path: Path) -> Any:
    """The file as a function of tensors by name."""
    from onnxruntime import InferenceSession, SessionOptions

    settings = SessionOptions()
    settings.log_severity_level = 3  # it warns of inputs that have a default
    opened = InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])

    def call(inputs: Mapping[str, Tensor]) -> Tensor:
        (images,) = opened.run(None, {name: value.contiguous().numpy() for name, value in inputs.items()})
        return torch.from_numpy(images)

    return call
