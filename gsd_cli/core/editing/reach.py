"""How far one image has to move along a direction to show a wanted change of an attribute."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

POINTS = 33
"""Strengths per side at which the change is looked at first."""
FARTHEST = 3.0
"""The search ends at this multiple of the wanted strength."""
WRONG_WAY = 0.5
"""A change this far the wrong way, in standard deviations, ends the search for the largest one."""
BISECTIONS = 6
"""A strength is then exact to FARTHEST |wanted| / (POINTS - 1) / 2^BISECTIONS."""


@torch.no_grad()
def find_strengths(change: Callable[[Tensor], Tensor], wanted: Sequence[float]) -> list[float]:
    """The strengths along a direction at which `change` first has the values `wanted`, one each.

    change: strengths [N] to the changes of the attribute [N], in standard deviations; 0 at strength 0. A direction has
    the same length for all images, but an image changes more or less along it. Where the wanted change does not occur
    up to FARTHEST times the wanted strength, the result is the strength of the largest change towards it.
    """
    return [_find_strength(change, value) if value else 0.0 for value in wanted]


def _find_strength(change: Callable[[Tensor], Tensor], wanted: float) -> float:
    sign = 1.0 if wanted > 0 else -1.0
    tried = torch.linspace(0, FARTHEST * wanted, POINTS)
    seen = sign * change(tried)
    seen[0] = 0.0
    beyond = (seen >= abs(wanted)).nonzero()
    if not len(beyond):
        wrong = (seen < -WRONG_WAY).nonzero()
        before = int(wrong[0]) if len(wrong) else POINTS
        return tried[int(seen[:before].argmax())].item()
    first = int(beyond[0])
    low, high = tried[first - 1].item(), tried[first].item()
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if sign * change(torch.tensor([middle])).item() >= abs(wanted):
            high = middle
        else:
            low = middle
    return high
