"""Directions of an edit: in the latent z, or in the bottleneck of the network.

The bottleneck of a U-Net as a semantic space: Kwon et al. (ICLR 2023). A latent is moved and put back on its
sphere; the bottleneck is shifted while the generator runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gsd_cli.base.atomic import atomic_file
from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.core.latents.render import Delta, render
from gsd_cli.core.models.generator import Generator

Space = Literal["latent", "bottleneck"]
FORMAT = "gsd-directions/3"
SMALLEST_PART = 0.02
"""The smallest part of a unit vector that `orthogonalise` may leave: with less, an edit would be noise."""


@dataclass(frozen=True)
class Direction:
    """A unit vector of z's or the bottleneck's shape [c, h, w]; strength 1 is `scale` of it.

    how: the method that found it. figures: its measurements. normal: the direction in which the attribute
    changes fastest, shaped like the vector, if it is known to differ from it; `orthogonalise` removes it.
    """

    name: str
    space: Space
    vector: Tensor
    scale: float
    how: str
    figures: dict[str, float] = field(default_factory=dict)
    normal: Tensor | None = None


def render_edits(
    generator: Generator, z: Tensor, direction: Direction, strengths: Sequence[float], deltas: Sequence[Delta] = (),
    batch_size: int = 64,
) -> Tensor:  # fmt: skip
    """Images of latents z [N, C, H, W] (or [1, ...] for all), each moved by its strength [N]; on the CPU."""
    z = z.expand(len(strengths), *z.shape[1:])
    shifts = direction.scale * torch.tensor(strengths).reshape(-1, 1, 1, 1) * direction.vector
    if direction.space == "latent":
        return render(generator, move_latents(z, shifts), deltas, batch_size=batch_size)
    return render(generator, z, deltas, shifts, batch_size)


def move_latents(z: Tensor, shifts: Tensor) -> Tensor:
    """z + shifts [N, C, H, W], each put back on the sphere of its z."""
    far = z + shifts
    norms = z.flatten(1).norm(dim=1) / far.flatten(1).norm(dim=1)
    return far * norms.reshape(-1, 1, 1, 1)


def orthogonalise(direction: Direction, others: Sequence[Direction]) -> Direction:
    """The direction without its parts along the others' normals, of the same space: orthogonal to each.

    To first order an attribute does not change along a direction orthogonal to its gradient. (The direction
    that edits the attribute best may differ from the gradient, to leave third attributes alone.) The remaining
    part must go further for the same effect, so its scale grows by the lost length. Raises GsdError (exit 2)
    when almost nothing is left.
    """
    if not others:
        return direction
    flat = direction.vector.flatten().double()
    normals = [o.vector if o.normal is None else o.normal for o in others]
    basis = torch.linalg.qr(torch.stack([n.flatten().double() for n in normals], 1)).Q  # [d, K]
    for _ in range(2):  # twice is enough (Kahan): the first pass leaves rounding errors
        flat = flat - basis @ (basis.T @ flat)
    left = flat.norm().item()
    if left < SMALLEST_PART:
        names = ", ".join(o.name for o in others)
        raise GsdError(f"nothing of {direction.name} is left without {names}", code=ExitCode.USAGE)
    vector = (flat / left).reshape(direction.vector.shape).to(direction.vector)
    figures = {**direction.figures, "kept": left}
    return replace(direction, vector=vector, scale=direction.scale / left, figures=figures)


@dataclass(frozen=True)
class LinearScore:
    """The score of a learnt attribute, for vectors of features [N, F]: features . weight + bias."""

    weight: Tensor
    bias: float


def save_directions(
    path: Path, directions: Sequence[Direction], about: dict[str, Any], score: LinearScore | None = None
) -> None:
    """Write directions as safetensors; `about` names the model and options they belong to.

    score: of the attribute, if it was learnt from images.
    """
    tensors = {f"{i}": d.vector.contiguous() for i, d in enumerate(directions)}
    tensors |= {f"{i}.normal": d.normal.contiguous() for i, d in enumerate(directions) if d.normal is not None}
    listed = [{k: v for k, v in vars(d).items() if k not in ("vector", "normal")} for d in directions]
    header = {"format": FORMAT, "about": json.dumps(about, sort_keys=True), "directions": json.dumps(listed)}
    if score is not None:
        tensors["score.weight"] = score.weight.contiguous()
        header["score.bias"] = json.dumps(score.bias)
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata=header)


def load_score(path: Path) -> LinearScore | None:
    """The score that `save_directions` wrote; None if there is none."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            return LinearScore(file.get_tensor("score.weight"), float(json.loads(header["score.bias"])))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        return None


def load_directions(path: Path, about: dict[str, Any]) -> list[Direction] | None:
    """Read what `save_directions` wrote; None for a file that is missing, damaged or of another model or options.

    about: the keys that must agree; a stored file may have more.
    """
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            stored = json.loads(header["about"])
            if header.get("format") != FORMAT or any(stored.get(k) != v for k, v in about.items()):
                return None
            listed = json.loads(header["directions"])
            held = set(file.keys())
            found = [
                Direction(
                    vector=file.get_tensor(f"{i}"),
                    normal=file.get_tensor(key) if (key := f"{i}.normal") in held else None,
                    **known,
                )
                for i, known in enumerate(listed)
            ]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return found if all(math.isfinite(d.scale) for d in found) else None
