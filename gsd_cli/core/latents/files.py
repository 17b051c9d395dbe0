"""Latents on disk: safetensors with figures per latent in the header; also the cache of inversions."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gsd_cli.base.atomic import atomic_file
from gsd_cli.base.errors import GsdError
from gsd_cli.catalogue.image_names import LATENTS_FORMAT, LATENTS_SUFFIX
from gsd_cli.core.models.condition import Condition

SUFFIX, FORMAT = LATENTS_SUFFIX, LATENTS_FORMAT


@dataclass(frozen=True)
class Anchor:
    """An image in latent space: z [C, H, W] on the CPU, with the figures of its inversion.

    delta: changes of the generator's weights for this image alone (pivotal tuning), by parameter name.
    residual: the image minus the generator's image, [C, H, W] of the image's shape.
    condition: of one row, what the generator is given for it; None for the generator's own. Files do not hold it.
    """

    z: Tensor
    figures: dict[str, Any]
    delta: dict[str, Tensor] = field(default_factory=dict)
    residual: Tensor | None = None
    condition: Condition | None = None


def save_anchors(path: Path, anchors: list[Anchor], model: str) -> Path:
    """Write anchors as one file; `model` is the fingerprint of the weights they belong to."""
    tensors = {}
    for i, anchor in enumerate(anchors):
        tensors[f"{i}.z"] = anchor.z.contiguous()
        tensors |= {f"{i}.delta.{name}": change.contiguous() for name, change in anchor.delta.items()}
        if anchor.residual is not None:
            tensors[f"{i}.residual"] = anchor.residual.contiguous()
    header = {"format": FORMAT, "model": model, "figures": json.dumps([a.figures for a in anchors])}
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata=header)
    return path


def load_anchors(path: Path, shape: tuple[int, int, int]) -> tuple[list[Anchor], str]:
    """Read what `save_anchors` wrote for latents of `shape`, and the model's fingerprint. Raises GsdError (exit 3)."""
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header.get("format") != FORMAT:
            raise ValueError("it holds no latents of gsd")
        figures = json.loads(header["figures"])
        anchors = [_anchor(i, known, tensors) for i, known in enumerate(figures)]
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise GsdError(f"cannot read latents from {path}: {error}", hint="write them with --save-latent") from error
    for anchor in anchors:
        if anchor.z.shape != shape or not torch.isfinite(anchor.z).all():
            raise GsdError(
                f"{path} holds latents of shape {tuple(anchor.z.shape)}, the model takes {shape}",
                hint="give their model with --model",
            )
    return anchors, header.get("model", "")


def _anchor(i: int, figures: Any, tensors: dict[str, Tensor]) -> Anchor:
    prefix = f"{i}.delta."
    delta = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return Anchor(tensors[f"{i}.z"], dict(figures), delta, tensors.get(f"{i}.residual"))


def cache_key(image: Tensor, model: str, settings: dict[str, Any]) -> str:
    """The cache name of an image's inversion: a hash of its pixels, the model and the settings."""
    digest = hashlib.sha256(json.dumps([FORMAT, model, settings], sort_keys=True, default=str).encode())
    digest.update(image.contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
