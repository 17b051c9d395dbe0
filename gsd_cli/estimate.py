"""What a run will cost, from file sizes and formulas, for --dry-run. Nothing heavy is loaded."""

from __future__ import annotations

import json
from pathlib import Path

from gsd_cli.errors import GsdError
from gsd_cli.finding import find_model
from gsd_cli.registry import TEACHERS

VALUES_TRAINED = 10
"""Numbers kept for a parameter in training: four networks, the gradients of two, and their Adam moments."""
VALUES_SAVED = 7
"""Numbers kept for a parameter in a checkpoint: three networks and the Adam moments of two."""
CHECKPOINTS = 2


def distillation(teacher: str, passes: float) -> list[str]:
    """Lines on the work, memory and disk of a distillation of so many forward passes; as far as the teacher's size is
    known."""
    lines = []
    if (parameters := teacher_parameters(teacher)) is not None:
        memory, disk = 4 * VALUES_TRAINED * parameters, disk_needed(teacher) or 0
        lines.append(
            f"about {passes:,.0f} forward passes of {parameters / 1e6:.1f} M parameters; "
            f"{size(memory)} of memory before activations, {size(disk)} of disk"
        )
    return lines


def disk_needed(teacher: str) -> int | None:
    """Bytes of a run folder at its largest, pictures aside: its checkpoints and generator; None when unknown."""
    parameters = teacher_parameters(teacher)
    return None if parameters is None else 4 * (VALUES_SAVED * CHECKPOINTS + 1) * parameters


def teacher_parameters(spec: str) -> int | None:
    """How many parameters a teacher has: by name, else from the size of its weights; None when unknown."""
    if spec in TEACHERS:
        return TEACHERS[spec].parameters
    weights = [path for path in Path(spec).rglob("*.safetensors") if path.is_file()] if Path(spec).is_dir() else []
    return sum(path.stat().st_size for path in weights) // 4 or None


def pictures(model: str | None, count: int) -> str:
    """`64 images, 64 network calls, 65 kB of pixels`."""
    counted = f"{count:,} image{'s' * (count != 1)}"
    try:
        config = json.loads((find_model(model) / "config.json").read_text(encoding="utf-8"))
        pixels = count * int(config["sample_size"]) ** 2 * int(config["out_channels"])
    except (GsdError, OSError, ValueError, KeyError, TypeError):
        return counted
    return f"{counted} (one network call each, {size(pixels)} of pixels)"


def size(count: float) -> str:
    """Bytes for people: 12 MB."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
