"""What a generator of several steps needs in addition to its network: noise levels, and the later steps' noise.

    x_1 = D(s_1 z, s_1),   x_{k+1} = D(x_k + s_{k+1} n_k, s_{k+1}),   k = 1..K-1

The sampler is that of consistency models (Song et al., 2023, algorithm 1), as DMD2 uses it (Yin et al., 2024).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from gsd_cli.compute.device import DeviceConstant

_SEED = 20_240_523
"""Of the permutations: another number makes other images of every generator of several steps."""


def spread_levels(sigma_init: float, steps: int) -> tuple[float, ...]:
    """The noise levels s_1 > ... > s_K of K steps: s_1 is `sigma_init`, and their times are evenly spaced down to 0.

        t_k = t_1 (K - k + 1) / K,   t = s / (1 + s)

    t is the time of flow matching. DMD2 spaces its steps evenly in the teacher's own time; this one does not depend on
    the teacher. For s_1 = 2.5, two steps have 2.5 and 0.556; four have 2.5, 1.15, 0.556 and 0.217.
    """
    first = sigma_init / (1 + sigma_init)
    times = [first * (steps - k) / steps for k in range(1, steps)]
    return (sigma_init, *(t / (1 - t) for t in times))


def later_noise(z: Tensor, step: int) -> Tensor:
    """n_step of latents z [B, ...], of z's shape: z's numbers in another order, half of them with the other sign.

    An orthogonal map, the same for all images: n ~ N(0, I) where z is, it moves by the same distance as z, and a latent
    means one image. The order is arbitrary, so that the noise of a place has nothing to do with the latent there.
    """
    order, signs = permutation(z[0].numel(), step)
    return reorder(z, order.on(z.device), signs.on(z.device))


def reorder(z: Tensor, order: Tensor, signs: Tensor) -> Tensor:
    """The numbers of each latent of z [B, ...] in an order [count], with signs [count]."""
    return (z.flatten(1)[:, order] * signs).reshape(z.shape)


@cache
def permutation(count: int, step: int) -> tuple[DeviceConstant, DeviceConstant]:
    """The order and the signs of `later_noise` for latents of `count` numbers: int64 and int8 [count].

    They depend on their arguments alone: NumPy promises that SeedSequence never changes, and a stable sort has one
    result. Kept for good, since a recorded step (a CUDA graph) reads them at their addresses.
    """
    words = np.random.SeedSequence([_SEED, count, step]).generate_state(count, np.uint64)
    order, signs = np.argsort(words, kind="stable"), 1 - 2 * (words & np.uint64(1)).astype(np.int8)
    return DeviceConstant(torch.from_numpy(order)), DeviceConstant(torch.from_numpy(signs))
