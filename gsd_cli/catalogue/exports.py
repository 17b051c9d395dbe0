"""The files that a generator is exported to, and what reads and writes them. Nothing heavy is loaded here."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from gsd_cli.base.errors import GsdError, UsageError

ONNX, TORCH = ".onnx", ".pt2"
EXPORT_SUFFIXES = (ONNX, TORCH)
ExportPrecision = Literal["fp32", "fp16", "int8"]
"""How the large weights of an exported file are stored. Calls are in fp32."""
PRECISIONS: tuple[str, ...] = get_args(ExportPrecision)
Backend = Literal["torch", "onnx"]
"""What calls a generator."""
NEEDED = ("onnx", "onnxruntime", "onnxscript")


def is_export(spec: str | None) -> bool:
    """Whether `--model` names an exported file."""
    return spec is not None and Path(spec).suffix.lower() in EXPORT_SUFFIXES


def require_onnx(*names: str) -> None:
    """Raise GsdError (exit 3) where packages that read and write ONNX are missing; by default all of them. None is
    imported."""
    if missing := [name for name in names or NEEDED if find_spec(name) is None]:
        raise GsdError(f"ONNX needs {', '.join(missing)}", hint="pip install 'gsd-cli[export]'")


def require_export_format(target: Path, precision: str) -> None:
    """Raise UsageError for a file of another kind, and for a precision that its kind does not have."""
    suffix = target.suffix.lower()
    if suffix not in EXPORT_SUFFIXES:
        raise UsageError([f"--export {target}: give a .onnx or a .pt2 file"], hint="--export generator.onnx")
    if suffix == TORCH and precision != "fp32":
        raise UsageError(
            [f"--export-precision {precision}: a .pt2 file is always fp32"], hint="--export generator.onnx"
        )
