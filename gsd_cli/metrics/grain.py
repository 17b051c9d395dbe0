"""Grain: how rough images are from pixel to pixel, in their bright parts and in their dark ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from gsd_cli.data.pixels import to_uint8
from gsd_cli.metrics.frechet_error import FOR_A_SPREAD

LEVEL = 64
"""Grey value from which on a pixel counts as bright: a quarter of the range."""
VALUES = 4 * 255 + 1
"""How many values the absolute Laplacian of 8-bit pixels can have: 0 to 1020."""
BLOCKS = 10
SIDES = ("bright", "dark")


def roughness(pixels: Tensor) -> Tensor:
    """|4 x - up - down - left - right| of grey values [..., H, W] where there are four neighbours: [..., H - 2, W - 2].

    The absolute value of the discrete Laplacian (five-point stencil), each channel by itself. It is 0 on flat
    areas and even slopes. The border is not padded.
    """
    x = pixels.int()
    inside = x[..., 1:-1, 1:-1]
    around = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]
    return (4 * inside - around).abs()


class GrainCounts:
    """How often each roughness occurs in an image: vectors for a cache, from which `Grain` is computed."""

    name = "grain-counts"

    def features(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] in [-1, 1], rounded to 8 bits, to counts [B, 2 VALUES]: of bright pixels, then dark."""
        pixels = to_uint8(images)
        found = roughness(pixels)
        dark = (pixels[..., 1:-1, 1:-1] < LEVEL).int()
        image = torch.arange(len(pixels)).reshape(-1, 1, 1, 1)
        cells = (2 * image + dark) * VALUES + found
        return torch.bincount(cells.flatten(), minlength=2 * VALUES * len(pixels)).reshape(len(pixels), -1).float()


class Grain:
    """The medians of the roughness over all bright and over all dark pixels of n images, with standard errors.

    A pixel is bright when its own grey value is LEVEL or more, else dark; its neighbours may be either, so edges
    count. Channels are pooled. Exact: medians are taken from counts.
    """

    def __init__(self, n: int):
        self.n, self.count = n, 0
        self.counts = np.zeros((min(BLOCKS, n), 2, VALUES), np.int64)

    def add(self, rows: Tensor) -> None:
        """Take in the counts [B, 2 VALUES] of the next images, in the order of their seeds."""
        for row in rows.long().numpy().reshape(-1, 2, VALUES):
            self.counts[self.count * len(self.counts) // self.n] += row
            self.count += 1

    def figures(self) -> dict[str, float]:
        """`grain_bright` and `grain_dark`, grey values; from FOR_A_SPREAD images on also `..._error`, a standard
        error from the spread over ten blocks. A side without a pixel is absent."""
        found = {}
        for side, counts in enumerate(self.counts.swapaxes(0, 1)):
            if not counts.any():
                continue
            found[f"grain_{SIDES[side]}"] = median(counts.sum(0))
            if self.count >= FOR_A_SPREAD and counts.any(1).all():
                spread = np.std([median(block) for block in counts], ddof=1)
                found[f"grain_{SIDES[side]}_error"] = float(spread / len(counts) ** 0.5)
        return found


def median(counts: np.ndarray) -> float:
    """The median of values 0, 1, 2, ... with these counts; the mean of the middle two where their number is even."""
    total, below = counts.sum(), counts.cumsum()
    low, high = np.searchsorted(below, [(total + 1) // 2, total // 2 + 1])
    return float(low + high) / 2


def grain_facts(figures: Mapping[str, float]) -> dict[str, str]:
    """The medians as facts of statistics, to be stored with them."""
    return {f"grain_{side}": f"{figures[f'grain_{side}']:g}" for side in SIDES if f"grain_{side}" in figures}


def grain_of(facts: Mapping[str, str]) -> dict[str, float]:
    """The medians in facts; empty where they are missing or no numbers."""
    found = {}
    for name in (f"grain_{side}" for side in SIDES):
        value = facts.get(name, "")
        if value.replace(".", "", 1).isdecimal():
            found[name] = float(value)
    return found
