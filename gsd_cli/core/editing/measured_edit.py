"""Edits of attributes that a formula measures in the pixels, solved for each image.

One direction for all images also changes whatever usually goes with the attribute. Here the edited latent itself is
found by optimisation: it shows the wanted change, and everything else of the image stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from gsd_cli.compute.device import in_full_precision
from gsd_cli.core.editing.response import Measure
from gsd_cli.core.editing.supervised import Attribute
from gsd_cli.core.latents.gaussianity import prior
from gsd_cli.core.latents.inversion import PRIOR_WEIGHT
from gsd_cli.core.latents.lbfgs import minimise

STEPS = 40
"""L-BFGS evaluations per edit."""
TARGET_WEIGHT = 16.0
"""Weight of the attribute's squared error, in standard deviations: a quarter of one costs 1."""
TRAIT_WEIGHT, PRESERVED_WEIGHT = 0.4, 4.0
"""Weight of another attribute's squared change, and of one that the caller names."""
FEATURE_WEIGHT = 1.0
CLASS_WEIGHT = 3.0
ROWS = 64
"""Edits that are solved together."""


@dataclass(frozen=True)
class Goal:
    """What an edit changes and what it keeps.

    target: the attribute that changes, in units of deviations[target.name]. kept: the other attributes; those in
    `preserved` are kept more strictly. features: a map to vectors [B, F] whose squared distance to the original is
    kept small. classifier: images to logits [B, K]; the most probable class of the original is kept.
    """

    target: Attribute
    kept: Sequence[Attribute]
    deviations: Mapping[str, float]
    features: Measure
    classifier: Measure | None = None
    preserved: frozenset[str] = frozenset()


@in_full_precision
def solve_edits(
    draw: Measure, z: Tensor, strengths: Sequence[float], goal: Goal, steps: int = STEPS,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> Tensor:  # fmt: skip
    """Find for each latent z [N, C, H, W] the edit of its strength [N], in standard deviations of the target.

    Minimises over latents of the same norm

        16 (change of the target - strength)^2 + sum of w (change of another attribute)^2
        + |phi(x) - phi(x0)|^2 + 3 cross entropy of x0's class + 20 prior(z)

    with changes in standard deviations. Each row starts at its own latent and is independent of the others.
    draw: latents to images with gradients. Returns latents [N, C, H, W] where z is.
    """
    found = []
    groups = torch.arange(len(z)).split(ROWS)
    for index, rows in enumerate(groups):

        def report(done: int, total: int, index: int = index) -> None:
            on_step(index * total + done, len(groups) * total)

        wanted = torch.tensor([strengths[k] for k in rows.tolist()], device=z.device)
        loss = _objective(draw, z[rows], wanted, goal)
        found.append(minimise(loss, z[rows], steps, report).z)
    return torch.cat(found)


def _objective(draw: Measure, z: Tensor, wanted: Tensor, goal: Goal) -> Callable[[Tensor], Tensor]:
    attributes = [goal.target, *(a for a in goal.kept if a.name != goal.target.name)]
    with torch.no_grad():
        original = draw(z)
        scores = {a.name: a.score(original) for a in attributes}
        features = goal.features(original)
        classes = None if goal.classifier is None else goal.classifier(original).argmax(1)

    def loss(latents: Tensor) -> Tensor:
        images = draw(latents)
        total = (goal.features(images) - features).square().sum(1) * FEATURE_WEIGHT + PRIOR_WEIGHT * prior(latents)
        for a in attributes:
            change = (a.score(images) - scores[a.name]) / max(goal.deviations[a.name], 1e-9)
            if a.name == goal.target.name:
                total = total + TARGET_WEIGHT * (change - wanted).square()
            else:
                weight = PRESERVED_WEIGHT if a.name in goal.preserved else TRAIT_WEIGHT
                total = total + weight * change.square()
        if goal.classifier is not None and classes is not None:
            total = total + CLASS_WEIGHT * cross_entropy(goal.classifier(images), classes, reduction="none")
        return total

    return loss
