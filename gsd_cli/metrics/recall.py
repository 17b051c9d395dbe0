"""Recall: how much of the real images a generator reaches (Kynkaanniemi et al., NeurIPS 2019)."""

from __future__ import annotations

import torch
from torch import Tensor

NEAREST = 3


def recall(real: Tensor, generated: Tensor, nearest: int = NEAREST) -> float:
    """The share of real features [R, F] within reach of a generated one [N, F], in [0, 1].

    A generated point reaches as far as its `nearest`-th nearest generated neighbour. Grows with N:
    compare at equal N only. Raises ValueError when N <= nearest.
    """
    if len(generated) <= nearest:
        raise ValueError(f"{len(generated)} generated images have no {nearest}-th neighbour")
    real, generated = real.double(), generated.double()
    apart = torch.cdist(generated, generated)
    reach = apart.kthvalue(nearest + 1, 1).values  # the nearest of all is the point itself
    covered = [(torch.cdist(part, generated) <= reach).any(1) for part in real.split(1024)]
    return torch.cat(covered).double().mean().item()
