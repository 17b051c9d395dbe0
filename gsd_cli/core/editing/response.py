"""The effect of an edit on images: measures at several strengths, and the direction's quality computed from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from scipy.stats import spearmanr
from torch import Tensor

from gsd_cli.core.editing.direction import Direction, render_edits
from gsd_cli.core.models.generator import Generator

Measure = Callable[[Tensor], Tensor]
"""Images [n, C, H, W], on the generator's device, to values [n] or [n, F]."""


@dataclass(frozen=True)
class Response:
    """Measures of n images, original and edited at S strengths.

    base: [n] or [n, F]; values: [S, n] or [S, n, F]; by measure. deviations: the standard deviation of
    each measure [n] over the generator's own samples.
    """

    strengths: Sequence[float]
    base: Mapping[str, Tensor]
    values: Mapping[str, Tensor]
    deviations: Mapping[str, float]

    def change(self, name: str) -> Tensor:
        """The change of a measure in standard deviations, [S, n]."""
        return (self.values[name] - self.base[name]) / max(self.deviations[name], 1e-9)

    def achieved(self, name: str) -> float:
        """The mean change divided by the strength, clipped to [0, 1]; mean over strengths other than 0."""
        means = self.change(name).mean(1).tolist()
        shares = [min(max(m / s, 0.0), 1.0) for m, s in zip(means, self.strengths, strict=True) if s]
        return sum(shares) / len(shares)

    def reached(self, name: str) -> float:
        """The share of images below 0 originally that are above 0 at some strength; 1 when none is below."""
        below = self.base[name] <= 0
        if not below.any():
            return 1.0
        return (self.values[name][:, below] > 0).any(0).double().mean().item()

    def leakage(self, name: str, others: Sequence[str], *, each: bool = False) -> float:
        """The others' mean change divided by the target's, summed over strengths; 0 is pure.

        The size of a change is that of its mean over images, or with `each` the mean of its sizes per image.
        """

        def size(one: str) -> float:
            change = self.change(one)
            return (change.abs().mean(1) if each else change.mean(1).abs()).sum().item()

        listed = [size(other) for other in others if other != name]
        return sum(listed) / max(len(listed), 1) / max(size(name), 1e-9)

    def monotonicity(self, name: str) -> float:
        """Spearman's correlation of strength and measure, mean over images; needs 3 strengths."""
        columns = self.values[name].T.double().numpy()
        found = [spearmanr(self.strengths, column).statistic for column in columns if column.max() > column.min()]
        return float(sum(found) / len(columns)) if found else 0.0

    def distance(self, name: str) -> Tensor:
        """The Euclidean distance of a vector measure from that of the original images: [S, n]."""
        return (self.values[name] - self.base[name]).norm(dim=2)


@torch.no_grad()
def respond(
    generator: Generator, direction: Direction, z: Tensor, strengths: Sequence[float],
    measures: Mapping[str, Measure], deviations: Mapping[str, float], batch_size: int = 64,
    base: Mapping[str, Tensor] | None = None,
) -> Response:  # fmt: skip
    """Edit latents z [n, C, H, W] at every strength and measure. base: measures of the original images, if known."""
    count = len(z)
    if base is None:
        base = measure_edits(generator, z, direction, [0.0] * count, measures, batch_size)
    repeated = z.repeat(len(strengths), 1, 1, 1)
    each = [s for s in strengths for _ in range(count)]
    found = measure_edits(generator, repeated, direction, each, measures, batch_size)
    values = {name: value.unflatten(0, (len(strengths), count)) for name, value in found.items()}
    return Response(tuple(strengths), base, values, deviations)


def measure_edits(
    generator: Generator, z: Tensor, direction: Direction, strengths: Sequence[float],
    measures: Mapping[str, Measure], batch_size: int,
) -> dict[str, Tensor]:  # fmt: skip
    """Every measure of every edited latent, by name, on the CPU; images are not kept."""
    device = generator.device
    found: dict[str, list[Tensor]] = {name: [] for name in measures}
    for part in torch.arange(len(z)).split(batch_size):
        images = render_edits(generator, z[part], direction, [strengths[i] for i in part.tolist()], (), batch_size).to(
            device
        )
        for name, measure in measures.items():
            found[name].append(measure(images).float().cpu())
    return {name: torch.cat(values) for name, values in found.items()}
