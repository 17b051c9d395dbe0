"""The exponential moving average of a network's weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gsd_cli.compute.sharding import local


def ema_decay(batch: int, images_seen: int, half_life: float, ramp: float = 0.05) -> float:
    """The decay beta = 0.5^(batch / h) of one step, h = min(half_life, ramp * images_seen), all in images.

    The ramp keeps a short run from being dominated by its start (Karras et al. 2022, EDM's training code).
    """
    h = min(half_life, ramp * images_seen)
    return 0.5 ** (batch / h) if h > 0 else 0.0


@torch.no_grad()
def update_average(
    average: nn.Module, model: nn.Module, share: float | Tensor, skipped: Tensor | None = None
) -> None:  # fmt: skip
    """average <- average + share (model - average), for parameters and buffers; unchanged if `skipped` [] is 1.

    share: 1 - beta for a decay of beta. It and `skipped` may be on a device: the host does not wait for them. Sharded
    modules are cut alike, so each process moves its own pieces.
    """
    states = (module.state_dict(keep_vars=True).values() for module in (average, model))
    pairs = zip(*states, strict=True)
    # not a shared base
    own = ((local(a), local(b)) for a, b in pairs if a.is_floating_point() and a is not b)
    mine, theirs = map(list, zip(*own, strict=True))
    if skipped is None:
        torch._foreach_lerp_(mine, theirs, float(share))
        return
    moves = torch._foreach_sub(theirs, mine)
    torch._foreach_mul_(moves, share * (1 - skipped))
    torch._foreach_add_(mine, moves)
