"""Tables of equal perceptual steps for the walks that the explorer offers at its start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

from torch import Tensor

from gsd_cli.compute.device import in_full_precision
from gsd_cli.core.latents.inversion import encoder_features
from gsd_cli.core.latents.render import render
from gsd_cli.core.latents.walks import equal_steps, interpolate
from gsd_cli.core.models.generator import Generator

FRAMES = 17
"""Images of a walk in the explorer."""


@in_full_precision
def walk_tables(
    generator: Generator, starts: Sequence[Tensor], batch_size: int, on_pair: Callable[[int, int], None]
) -> dict[tuple[int, int], list[float]]:
    """For each pair of latents [C, H, W]: the FRAMES fractions of the great circle between which its images change in
    equal steps of the generator's own features, those of `gsd interpolate --path uniform --frames 17`."""
    features = encoder_features(generator)
    pairs = list(combinations(range(len(starts)), 2))
    tables = {}
    for done, (a, b) in enumerate(pairs):

        def images_at(s: Tensor, a: int = a, b: int = b) -> Tensor:
            return render(generator, interpolate(starts[a], starts[b], s, "slerp"), batch_size=batch_size)

        fractions = equal_steps(images_at, FRAMES, lambda images: features(images.to(generator.device)))
        tables[a, b] = [round(s, 6) for s in fractions.tolist()]
        on_pair(done + 1, len(pairs))
    return tables
