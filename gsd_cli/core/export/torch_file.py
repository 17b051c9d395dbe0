"""Writes a generator as a program of torch.export (.pt2)."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from gsd_cli.base.atomic import atomic_file
from gsd_cli.base.session import Session
from gsd_cli.core.export.check import Call, compare, require_close
from gsd_cli.core.export.exported import ExportedGenerator
from gsd_cli.core.export.metadata import describe_model
from gsd_cli.core.export.record import Export
from gsd_cli.core.export.trace import record_program
from gsd_cli.core.models.generator import Model

FORMAT = "gsd-torch/1"
FACTS = "gsd.json"
"""The file inside the .pt2 that holds what it says about itself."""


def write_torch(model: Model, path: Path, session: Session) -> Export:
    """Write a generator, on the CPU, as a .pt2 file, after it was loaded again and compared with torch.

    The program takes z [B, *latent_shape], then `class` int64 [B] or the tensors of a text, for any B, and returns
    images [B, *image_shape] in [-1, 1].

    Raises GsdError: exit 3 where the network cannot be recorded or its images differ; exit 8 where the file cannot be
    written.
    """
    begun = time.perf_counter()
    whole = ExportedGenerator(model.generator, with_shift=False)
    with session.progress("exporting with torch.export"), atomic_file(path) as temporary:
        program = record_program(whole, model.name)
        facts = json.dumps(describe_model(model, "fp32", FORMAT), indent=2)
        torch.export.save(program, temporary, extra_files={FACTS: facts})
        found = compare(whole, _caller(temporary, whole.names), session, leave_out=False)
        require_close(found, "fp32", path.name)
    return Export(path, "fp32", path.stat().st_size, time.perf_counter() - begun, found)


def _caller(path: Path, names: tuple[str, ...]) -> Call:
    """The file as a function of tensors by name."""
    program = torch.export.load(path).module()

    def call(inputs: Mapping[str, Tensor]) -> Tensor:
        images: Tensor = program(*(inputs[name] for name in names))
        return images

    return call
