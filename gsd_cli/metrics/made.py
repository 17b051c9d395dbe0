"""Features of a generator's images, as many as memory allows, else their statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

import torch
from torch import Tensor

from gsd_cli.core.generator import Generator
from gsd_cli.metrics.evaluation import generator_features
from gsd_cli.metrics.features import Extractor
from gsd_cli.metrics.statistics import Statistics, gaussian_statistics

KEPT_BYTES = 2**30


def made_features(
    generator: Generator, extractor: Extractor, n: int, batch_size: int, on_batch: Callable[[int], None]
) -> Tensor | Statistics:
    """Features [n, F] of seeds 0..n-1; statistics alone when those would take more than KEPT_BYTES.

    on_batch(count) after each batch.
    """

    def counted() -> Iterator[Tensor]:
        for batch in generator_features(generator, extractor, range(n), batch_size):
            on_batch(len(batch))
            yield batch.cpu()

    batches = counted()
    first = next(batches)
    everything = chain([first], batches)
    if n * first[0].nbytes > KEPT_BYTES:
        return gaussian_statistics(everything, extractor.name)
    return torch.cat(list(everything))
