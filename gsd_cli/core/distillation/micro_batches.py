"""Batches in parts: what goes through a network at a time, and what belongs to some rows of a batch."""

from __future__ import annotations

from torch import Tensor


def micro_batches(size: int | None, count: int, extra: int = 0) -> list[tuple[slice, bool]]:
    """The rows that go through a network at a time, `size` at most (None: all), and whether they are the last.

    No part holds both rows of the batch, of which there are `count`, and of the `extra` ones after it.
    """
    size = size or max(count, extra, 1)
    parts = [slice(i, min(i + size, count)) for i in range(0, count, size)]
    parts += [slice(count + i, count + min(i + size, extra)) for i in range(0, extra, size)]
    return [(part, part is parts[-1]) for part in parts]


def column(sigma: Tensor) -> Tensor:
    """Noise levels [B] as [B, 1, 1, 1], to multiply images."""
    return sigma.reshape(-1, 1, 1, 1)
