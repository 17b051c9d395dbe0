"""Terms are weighed by the norms of their gradients at the generator's images."""

from __future__ import annotations

import torch
from torch import Tensor

MEMORY = 0.95
"""How much of a running norm is kept at each update: about the last 20 count."""


class NormRatio:
    """Running norms of two gradients. `norms`: float64 [2], the reference's and the term's; part of a checkpoint."""

    def __init__(self) -> None:
        self.norms: Tensor = torch.zeros(2, dtype=torch.float64)

    def update(self, reference: float, term: float) -> None:
        """Take one step's norms into account, unless they are not finite."""
        now = torch.tensor([reference, term], dtype=torch.float64)
        if now.isfinite().all():
            self.norms = MEMORY * self.norms + (1 - MEMORY) * now

    def weight(self, ratio: float) -> float:
        """The factor that makes the term's norm `ratio` times the reference's; 0 for a term without a gradient."""
        # both start at zero, so the bias of a short history cancels in the quotient
        reference, term = self.norms.tolist()
        return ratio * reference / term if term > 0 else 0.0
