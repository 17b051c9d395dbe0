"""Opens the generator of --model for --backend onnx: an exported file, or a folder that is exported into the cache."""

from __future__ import annotations

from pathlib import Path

from gsd_cli.base.errors import GsdError
from gsd_cli.base.session import Session
from gsd_cli.catalogue.exports import ONNX, is_export
from gsd_cli.catalogue.find import find_model, read_card
from gsd_cli.catalogue.run_layout import PROMPTS, run_name
from gsd_cli.core.export.metadata import FORMAT
from gsd_cli.core.export.onnx_file import write_onnx
from gsd_cli.core.export.onnx_generator import OnnxGenerator, find_providers
from gsd_cli.core.models.fingerprint import folder_fingerprint
from gsd_cli.core.models.generator import Model, load_model, read_levels
from gsd_cli.core.models.prompts import load_prompts

CACHED = "exports"
"""The folder of the cache with exported files, named by what their images depend on."""


def open_onnx(
    spec: str | None, precision: str, device: str, session: Session, model: Model | None = None
) -> OnnxGenerator:
    """The generator that `spec` names, run by onnxruntime.

    spec: as `--model` takes it. model: the same, where the caller has loaded it. Raises GsdError (exit 3).
    """
    providers = find_providers(device, session.say)
    if spec is not None and is_export(spec):
        return OnnxGenerator(Path(spec), providers)
    folder = find_model(spec)
    if spec is None:
        session.say(f"model: {folder}")
    path = session.cache / CACHED / _cached_name(folder, precision)
    found = _open_cached(path, providers)
    if found is None:
        session.say(f"exporting {run_name(str(folder))} to ONNX, once: {path}")
        session.say(write_onnx(model or load_model(spec), path, precision, session).describe())
        found = OnnxGenerator(path, providers)
    if found.takes_texts and (folder / PROMPTS).is_file():
        found.give_prompts(load_prompts(folder / PROMPTS).condition)
    return found


def _cached_name(folder: Path, precision: str) -> str:
    """The name of a folder's file in the cache, from all that its images depend on."""
    levels = "-".join(map(str, read_levels(read_card(folder), folder)))
    return f"{folder_fingerprint(folder)}-{levels}-{precision}-{FORMAT.partition('/')[2]}{ONNX}"


def _open_cached(path: Path, providers: tuple[str, ...]) -> OnnxGenerator | None:
    """What the cache holds; None where it holds nothing, or what is damaged."""
    try:
        return OnnxGenerator(path, providers)
    except GsdError:
        return None
