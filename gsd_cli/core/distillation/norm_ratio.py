"""The weight of a loss term, from the norms of gradients at the generator's images.

Every term of the generator's loss is measured there: its gradient at the images is weighed and added to the others'
before one backward pass through the generator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MEMORY = 0.95
"""Share of a running norm that is kept at each update: it averages over about the last 20."""
TINY = 1e-30
"""Smaller than any norm of a gradient: guards a quotient."""


@dataclass(frozen=True)
class TermGradient:
    """A term on the images of one step: its mean loss [] over all processes, and its gradient at this process's images
    [B, C, H, W]."""

    loss: Tensor
    gradient: Tensor


class NormRatio:
    """Running norms of two gradients, kept on the device: nothing here waits for it.

    norms: float32 [2], of the reference and of the term; turns: number of updates. Both belong in a checkpoint.
    held_after: number of updates after which the norms no longer change.
    """

    def __init__(self, device: torch.device, held_after: float = math.inf) -> None:
        self.norms, self.turns = torch.zeros(2, device=device), torch.zeros((), device=device)
        self.held_after = held_after

    def update(self, reference: Tensor, term: Tensor) -> None:
        """Take one step's norms [] into account, unless one is not finite or the term has no gradient."""
        now = torch.stack([reference, term])
        counts = now.isfinite().all() & (term > 0) & (self.turns < self.held_after)
        # in place: a recorded step knows these tensors by their addresses
        self.norms.copy_(torch.where(counts, MEMORY * self.norms + (1 - MEMORY) * now, self.norms))
        self.turns.copy_(self.turns + counts)

    def weight(self, ratio: float) -> Tensor:
        """The factor [] that makes the term's norm `ratio` times the reference's; 0 for a term without a gradient."""
        # both start at zero, so the bias of a short history cancels in the quotient
        reference, term = self.norms
        return torch.where(term > 0, ratio * reference / term.clamp(min=TINY), 0.0)
