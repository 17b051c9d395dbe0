"""Files of one direction, which `gsd edit --save-direction` writes and `--direction` reads. Checked without torch."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gsd_cli.base.errors import GsdError, UsageError
from gsd_cli.base.safetensors_header import read_header

SUFFIX, FORMAT = ".safetensors", "gsd-direction/1"
SPACES = ("latent", "bottleneck")
LONGEST_NAME = 100
HINT = "write one with: gsd edit --attribute NAME --save-direction FILE.safetensors"


@dataclass(frozen=True)
class DirectionFacts:
    """What a file says of its direction.

    shape: (c, h, w) of the vector. range: the strengths, lowest and highest, up to which an edit still shows the same
    image. figures: its measurements. model: the fingerprint of the model's weights. label: the condition it was found
    for, as `Condition.mark`.
    """

    name: str
    space: str
    shape: tuple[int, ...]
    scale: float
    range: tuple[float, float]
    how: str
    figures: dict[str, float]
    model: str
    label: int | str | None


def is_direction_file(name: str) -> bool:
    """Whether a name given to `--direction` is that of a file."""
    return name.endswith(SUFFIX)


def read_direction_facts(path: Path) -> DirectionFacts:
    """Read the header of a direction file. Raises GsdError (exit 3) where it is missing, damaged or another file."""
    try:
        header = read_header(path)
        about = header.get("__metadata__")
        if not isinstance(about, dict) or about.get("format") != FORMAT:
            raise ValueError(f"it holds no direction of gsd ({_describe_other(about)})")
        return _parse(header, about)
    except FileNotFoundError as error:
        raise GsdError(f"--direction: no such file: {path}", hint=HINT) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        cause = f"it lacks {error}" if isinstance(error, KeyError) else getattr(error, "strerror", None) or error
        raise GsdError(f"cannot read a direction from {path}: {cause}", hint=HINT) from error


def _describe_other(about: Any) -> str:
    found = about.get("format") if isinstance(about, dict) else None
    return f"its format is {found[:40]!r}, not {FORMAT}" if isinstance(found, str) else f"it has no format {FORMAT}"


def _parse(header: dict[str, Any], about: dict[str, str]) -> DirectionFacts:
    low, high = (float(value) for value in json.loads(about["range"]))
    figures, label = json.loads(about["figures"]), json.loads(about["class"])
    scale, name, shape = float(about["scale"]), about["name"], tuple(header["vector"]["shape"])
    if not all(map(math.isfinite, (scale, low, high))) or low > high:
        raise ValueError("its scale or its range is not a finite number")
    if about["space"] not in SPACES:
        raise ValueError(f"its space is neither {' nor '.join(SPACES)}")
    if not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
        raise ValueError("its name cannot be printed")
    if len(shape) != 3 or not all(isinstance(size, int) for size in shape) or header["vector"]["dtype"] != "F32":
        raise ValueError("its vector is not float32 of three dimensions")
    numbers = isinstance(figures, dict) and all(isinstance(value, int | float) for value in figures.values())
    if not numbers or not isinstance(label, int | str | None):
        raise ValueError("its figures or its class are damaged")
    return DirectionFacts(
        name,
        about["space"],
        shape,
        scale,
        (low, high),
        str(about["how"])[:LONGEST_NAME],
        figures,
        about["model"],
        label,
    )


def require_direction_of(
    path: Path, facts: DirectionFacts, mark: str, latent_shape: tuple[int, ...] | None, space: str = "auto"
) -> None:
    """Refuse a direction of other weights, of another shape (exit 3), and of another space than `--space` (exit 2).

    mark: the fingerprint of the model's weights. latent_shape: (C, H, W), None where it is not known.
    """
    if facts.model != mark:
        raise GsdError(
            f"--direction: {path} is of another model: its weights are {facts.model[:16]}, this model's are {mark}",
            hint="give its model with --model; directions do not carry over to other weights",
        )
    if facts.space == "latent" and latent_shape is not None and facts.shape != tuple(latent_shape):
        raise GsdError(
            f"--direction: {path} has the shape {facts.shape}, the model's latents have {tuple(latent_shape)}",
            hint="the file is damaged: write it again with --save-direction",
        )
    if space not in ("auto", facts.space):
        raise UsageError([f"--space {space}: {path} is a direction of the {facts.space}"], hint="leave out --space")
