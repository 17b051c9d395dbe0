"""One direction as a file that others can load, with gsd or without it. docs/editing.md documents the format."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gsd_cli.base.atomic import atomic_file
from gsd_cli.base.errors import GsdError, UsageError
from gsd_cli.base.versions import gsd_version
from gsd_cli.catalogue.direction_files import FORMAT, HINT, read_direction_facts, require_direction_of
from gsd_cli.core.editing.direction import Direction, Space
from gsd_cli.core.latents.render import bottleneck_shape
from gsd_cli.core.models.generator import Generator

UNIT = 1e-3
"""The largest error of the length of a unit vector."""


def save_direction(
    path: Path, direction: Direction, model: str, label: int | str | None, reach: tuple[float, float]
) -> Path:
    """Write a direction as safetensors: its vectors as tensors, everything else as strings of the header.

    model: the fingerprint of the weights it belongs to. label: the condition it was found for (`Condition.mark`).
    reach: the strengths of `measure_range`.
    """
    tensors = {"vector": direction.vector.float().contiguous()}
    if direction.normal is not None:
        tensors["normal"] = direction.normal.float().contiguous()
    header = {
        "format": FORMAT,
        "name": direction.name,
        "space": direction.space,
        "scale": repr(float(direction.scale)),
        "range": json.dumps(reach),
        "how": direction.how,
        "figures": json.dumps(direction.figures, sort_keys=True),
        "model": model,
        "class": json.dumps(label),
        "gsd": gsd_version(),
    }
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata=header)
    return path


def load_direction(
    path: Path, generator: Generator, model: str, space: str = "auto"
) -> tuple[Direction, tuple[float, float]]:
    """Read what `save_direction` wrote: the direction, and the strengths of its measured range.

    Raises GsdError (exit 3): missing, damaged, of other weights, of another shape or another class; UsageError: of
    another space than `space`.
    """
    facts = read_direction_facts(path)
    require_direction_of(path, facts, model, generator.latent_shape, space)
    if facts.label != generator.condition.mark:
        raise UsageError(
            [f"--direction: {path} was found for {_describe_label(facts.label)}, not for the chosen one"],
            hint="directions of a conditional model belong to one class: choose it with --class",
        )
    try:
        tensors = load_file(path)
        vector, normal = tensors["vector"], tensors.get("normal")
        shape = generator.latent_shape if facts.space == "latent" else bottleneck_shape(generator)
        _require_unit("vector", vector, shape)
        if normal is not None:
            _require_unit("normal", normal, tuple(vector.shape))
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise GsdError(f"cannot read a direction from {path}: {error}", hint=HINT) from error
    known: Space = "latent" if facts.space == "latent" else "bottleneck"
    return Direction(facts.name, known, vector, facts.scale, facts.how, facts.figures, normal), facts.range


def _describe_label(label: int | str | None) -> str:
    return "no class" if label is None else f"class {label}" if isinstance(label, int) else "a prompt"


def _require_unit(name: str, vector: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(vector.shape) != shape:
        raise ValueError(f"its {name} has the shape {tuple(vector.shape)}, the model needs {shape}")
    length = vector.double().norm().item()
    if not abs(length - 1) < UNIT:  # also for NaN
        raise ValueError(f"its {name} has the length {length:.4g}, not 1")
