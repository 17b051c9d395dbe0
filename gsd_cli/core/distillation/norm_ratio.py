"""Terms are weighed by the norms of their gradients at the generator's images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

MEMORY = 0.95
"""How much of a running norm is kept at each update: about the last 20 count."""
TINY = 1e-30
"""Below any norm of a gradient: a quotient's guard."""


class NormRatio:
    """Running norms of two gradients, on a device: nothing here waits for it.

    norms: float32 [2], the reference's and the term's; turns: how many updates they are of. Both belong into a
    checkpoint. held_after: updates after which the norms stay as they are.
    """

    def __init__(self, device: torch.device, held_after: float = math.inf) -> None:
        self.norms, self.turns = torch.zeros(2, device=device), torch.zeros((), device=device)
        self.held_after = held_after

    def update(self, reference: Tensor, term: Tensor) -> None:
        """Take one step's norms into account, unless they are not finite or the term has no gradient."""
        now = torch.stack([reference, term])
        counts = now.isfinite().all() & (term > 0) & (self.turns < self.held_after)
        self.norms = torch.where(counts, MEMORY * self.norms + (1 - MEMORY) * now, self.norms)
        self.turns = self.turns + counts

    def weight(self, ratio: float) -> Tensor:
        """The factor that makes the term's norm `ratio` times the reference's; 0 for a term without a gradient."""
        # both start at zero, so the bias of a short history cancels in the quotient
        reference, term = self.norms
        return torch.where(term > 0, ratio * reference / term.clamp(min=TINY), 0.0)
