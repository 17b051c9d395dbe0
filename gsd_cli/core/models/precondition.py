"""What the output of a network means: the step from F to the clean estimate D(x, sigma), for every kind of output.

x = y + sigma n. A network is called as F(x / divisor(sigma) + shift, time); Karras et al. (2022), section 5. The module
of each kind of schedule has the records of the outputs that it can have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Precondition:
    """One kind of output. sigma is [B, 1, 1, 1] in every function; images are [B, C, H, W], about [-1, 1].

    divisor(sigma): what x is divided by before the network, and shift what is added then.
    clean(F, x, sigma): the clean estimate. amplification(sigma): its change per unit change of F.
    """

    divisor: Callable[[Tensor], Tensor]
    clean: Callable[[Tensor, Tensor, Tensor], Tensor]
    amplification: Callable[[Tensor], Tensor]
    shift: float = 0.0

    def input(self, x: Tensor, sigma: Tensor) -> Tensor:
        """What the network is given for x [B, C, H, W] at sigma [B]."""
        scaled = x / self.divisor(sigma.reshape(-1, 1, 1, 1))
        return scaled + self.shift if self.shift else scaled
