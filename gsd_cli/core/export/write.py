"""Exports a generator to a file of any kind."""

from __future__ import annotations

from pathlib import Path

from gsd_cli.base.session import Session
from gsd_cli.catalogue.exports import TORCH, require_export_format
from gsd_cli.core.export.onnx_file import write_onnx
from gsd_cli.core.export.record import Export
from gsd_cli.core.export.torch_file import write_torch
from gsd_cli.core.models.generator import Model


def write_export(model: Model, path: Path, precision: str, session: Session) -> Export:
    """Export a generator to `path`, whose suffix says the kind, and print how far its images are from torch's.

    Raises as `require_export_format`, `write_onnx` and `write_torch`.
    """
    require_export_format(path, precision)
    torch_kind = path.suffix.lower() == TORCH
    written = write_torch(model, path, session) if torch_kind else write_onnx(model, path, precision, session)
    session.say(written.describe())
    return written
