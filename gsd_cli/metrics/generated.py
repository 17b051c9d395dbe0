"""Images of a generator, made once for all measures, and their features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gsd_cli.compute.device import autocast
from gsd_cli.compute.random import latents
from gsd_cli.core.models.renderer import Renderer
from gsd_cli.core.sampling.images import conditions_for
from gsd_cli.metrics.features import Measure
from gsd_cli.metrics.statistics import Moments, Statistics

KEPT_BYTES = 2**30


def generated_batches(
    generator: Renderer, measures: Sequence[Measure], seeds: range, batch_size: int, precision: str = "fp32",
    device: torch.device | None = None,
) -> Iterator[dict[str, Tensor]]:  # fmt: skip
    """Make the images of `seeds`, in a precision; for each batch the vectors [B, F] by each measure's name, on the
    fly. device: that of the measures, default the generator's: an exported one may be on the CPU while they are not."""
    home = generator.device
    for start in range(0, len(seeds), batch_size):
        batch = seeds[start : start + batch_size]
        with torch.no_grad():
            z = latents(batch, generator.latent_shape).to(home)
            with autocast(home, precision):
                images = generator(z, conditions_for(generator, batch)).float().to(device or home)
            vectors = {measure.name: measure.features(images).cpu() for measure in measures}
        yield vectors


class Features:
    """Collects the feature vectors of n images; only their moments where all would take more than KEPT_BYTES."""

    def __init__(self, n: int):
        self.n, self.count = n, 0
        self._kept: list[Tensor] = []
        self._moments = Moments()

    def add(self, vectors: Tensor) -> None:
        """Take in the vectors [B, F] of the next images."""
        self.count += len(vectors)
        if self.n * vectors[0].nbytes > KEPT_BYTES:
            self._moments.add(vectors)
        else:
            self._kept.append(vectors)

    def found(self, extractor: str) -> Tensor | Statistics:
        """All features [n, F], or their statistics."""
        return torch.cat(self._kept) if self._kept else self._moments.statistics(extractor)
