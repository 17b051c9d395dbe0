"""Neighbouring latents within a batch: which rows get a neighbour, and the latents of one generator step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gsd_cli.compute.distributed import World


def pair_count(batch: int, every: int, group: int = 2) -> int:
    """How many pairs a batch has when one image in `every` gets a neighbour and a pair takes `group` places; at least
    two where there is room, since most forms compare pairs with each other."""
    return min(batch // group, max(2, batch // max(every, group)))


def row_order(batch: int, every: int, world: World, group: int = 2) -> list[int]:
    """The numbers of this process's rows within the batch of all processes, in working order: all points, then
    all their neighbours, then all middle latents (for a group of three), then the other rows.

    A pair's places have neighbouring numbers, so that a process's share of the batch holds whole pairs, and the same
    pairs for any number of processes (if each one's share is a multiple of `every` and holds two pairs).
    """
    own = list(range(batch)[world.rows(batch)])
    share, pairs = len(own), pair_count(len(own), every, group)
    stride = share // pairs if pairs else 1
    paired = [row for place in range(group) for row in own[place : pairs * stride : stride]]
    rest = set(own) - set(paired)
    return [*paired, *sorted(rest)]


@dataclass(frozen=True)
class LatentBatch:
    """The latents of one generator step.

    z: [B, C, H, W] ~ N(0, I), for all terms. Its first `pairs` rows are the points, the next `pairs` their neighbours,
    the next the latents between them, if the form has any. extra: [M, C, H, W], for the isometric term only.
    theta: [pairs], the angle of each pair, radians; 0 for a form that looks at single points.
    """

    z: Tensor
    extra: Tensor
    theta: Tensor

    @property
    def pairs(self) -> int:
        """How many points the isometric term compares at; 0 in a step without it."""
        return len(self.theta)
