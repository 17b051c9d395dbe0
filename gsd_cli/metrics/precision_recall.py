"""Fidelity and variety as separate figures: improved precision and recall, density and coverage.

Kynkaanniemi et al. (NeurIPS 2019); Naeem et al. (ICML 2020). A set's manifold is the union of the
balls around its points that reach to the k-th nearest neighbour.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gsd_cli.base.errors import GsdError

CHUNK = 2048


@dataclass(frozen=True)
class PrecisionRecall:
    """precision: share of generated images inside the real manifold; recall: share of real ones inside the
    generated manifold; density: how many real balls hold a generated image, over k; coverage: share of real
    balls that hold one. All but density lie in [0, 1]; density and coverage of real images are near 1."""

    precision: float
    recall: float
    density: float
    coverage: float


@torch.no_grad()
def precision_recall(
    generated: Tensor, real: Tensor, neighbours: int = 3, density_neighbours: int = 5
) -> PrecisionRecall:
    """Compare generated features [N, F] with real ones [M, F]; memory grows with N + M only.

    Raises GsdError (exit 3) when a set is not larger than its number of neighbours.
    """
    most = max(neighbours, density_neighbours)
    if min(len(generated), len(real)) <= most or generated.shape[1:] != real.shape[1:]:
        raise GsdError(f"precision and recall need more than {most} images on each side, with the same features")
    generated, real = generated.float(), real.float()
    real_radius = _radii(real, [neighbours, density_neighbours])
    (generated_radius,) = _radii(generated, [neighbours])
    inside_made = torch.zeros(len(real), dtype=torch.bool)
    held = torch.zeros(len(real), dtype=torch.bool)
    inside_real, balls = [], 0
    for part in generated.split(CHUNK):
        distances = torch.cdist(part, real)  # [chunk, M]
        inside_real.append((distances <= real_radius[0]).any(1))
        within = distances < real_radius[1]
        balls += int(within.sum())
        held |= within.any(0)
    for start in range(0, len(real), CHUNK):
        distances = torch.cdist(real[start : start + CHUNK], generated)
        inside_made[start : start + CHUNK] = (distances <= generated_radius).any(1)
    return PrecisionRecall(
        torch.cat(inside_real).float().mean().item(),
        inside_made.float().mean().item(),
        balls / (density_neighbours * len(generated)),
        held.float().mean().item(),
    )


def _radii(points: Tensor, neighbours: list[int]) -> list[Tensor]:
    """Distances to each point's k-th nearest other point, for each k: [N] each."""
    columns = torch.tensor(neighbours)  # the nearest point, number 0, is the point itself
    nearest = [
        torch.cdist(part, points).topk(max(neighbours) + 1, largest=False).values for part in points.split(CHUNK)
    ]
    return list(torch.cat(nearest)[:, columns].T)
