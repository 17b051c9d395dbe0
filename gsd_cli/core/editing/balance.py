"""The mix of traits' gradients that changes one of them alone, at whole strengths and not only to first order."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gsd_cli.core.editing.direction import Direction
from gsd_cli.core.editing.response import Measure, respond
from gsd_cli.core.models.generator import Generator

STEP = 3.0
"""Length in z at which each gradient's effects are seen."""
WANTED = 1.5
"""Standard deviations that the target is to move, each way."""
ROUNDS, DAMPING = 4, 0.7


def balanced(
    generator: Generator, name: str, measures: Mapping[str, Measure], gradients: Mapping[str, Tensor], z: Tensor,
    base: Mapping[str, Tensor], deviations: Mapping[str, float], batch_size: int,
) -> Tensor:  # fmt: skip
    """A vector [C, H, W], not scaled: the target `name` moves by WANTED deviations, the other measures by none.

    What moves is half the difference between a step ahead and one back, mean over latents z; the
    weights of the gradients are found by a damped Newton iteration whose matrix is what each
    gradient alone does. The weights that come nearest are kept.
    """
    names = list(measures)
    basis = torch.stack([gradients[trait].flatten() for trait in names])
    basis = basis / basis.norm(dim=1, keepdim=True).clamp(min=1e-12)

    def response(flat: Tensor) -> Tensor:
        direction = Direction(name, "latent", flat.reshape(z.shape[1:]), 1.0, "balanced")
        seen = respond(generator, direction, z, (-1.0, 1.0), measures, deviations, batch_size, base)
        back, ahead = torch.stack([seen.change(trait).mean(1) for trait in names], 1)  # [names] each
        return (ahead - back) / 2

    matrix = torch.stack([response(STEP * vector) for vector in basis], 1) / STEP  # [trait, gradient]
    wanted = torch.tensor([WANTED if trait == name else 0.0 for trait in names])
    weights = _solved(matrix, wanted)
    best, least = weights, float("inf")
    for _ in range(ROUNDS):
        missing = wanted - response(weights @ basis)
        if missing.norm().item() < least:
            best, least = weights, missing.norm().item()
        weights = weights + DAMPING * _solved(matrix, missing)
    return (best @ basis).reshape(z.shape[1:])


def _solved(matrix: Tensor, wanted: Tensor) -> Tensor:
    """The least-squares solution, by the pseudo-inverse without directions that hardly do anything."""
    return torch.linalg.pinv(matrix, rtol=1e-2) @ wanted
