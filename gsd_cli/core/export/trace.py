"""Records a generator's call as a graph of operators, for any number of images."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.export import Dim, ExportedProgram

from gsd_cli.base.errors import GsdError, out_of_memory
from gsd_cli.core.export.exported import ExportedGenerator

OPERATOR = r"\b(?:aten|prims|torchvision|onnx)(?:\.|::)\w+(?:\.\w+)?"
"""The name of an operator in the exporters' messages."""
LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")


def record_program(whole: ExportedGenerator, name: str) -> ExportedProgram:
    """The program of a generator. Raises GsdError (exit 3) naming what cannot be recorded."""
    examples = tuple(whole.examples().values())
    with explain_failure(name), torch.no_grad():
        return torch.export.export(whole, examples, dynamic_shapes=(tuple({0: Dim.DYNAMIC} for _ in examples),))


@contextmanager
def explain_failure(name: str) -> Iterator[None]:
    """A context without the exporters' notes for developers, whose errors become one GsdError with their cause."""
    loggers = [logging.getLogger(one) for one in LOGGERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # the exporters raise errors of many classes
        if out_of_memory(error) or isinstance(error, GsdError):
            raise
        raise GsdError(f"{name} cannot be exported: {find_cause(error)}", hint="gsd sample --model runs it") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def find_cause(error: BaseException) -> str:
    """What an exporter failed on: the operator, if its messages name one, else the first line of the first message."""
    messages: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(messages) < 10:
        messages.append(str(seen))
        seen = seen.__cause__ or seen.__context__
    for message in reversed(messages):
        if named := re.search(OPERATOR, message):
            return f"the file format has no operator {named[0]}"
    lines = [line.strip() for line in messages[-1].splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:200]
