"""Measuring a generator during and after its training, always on the same latents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gsd_cli.core.autoencoder import Autoencoder
from gsd_cli.core.generator import Generator
from gsd_cli.core.noise import latents
from gsd_cli.core.sampling import labels_for
from gsd_cli.data.pictures import save_grid
from gsd_cli.metrics.features import Extractor
from gsd_cli.metrics.isometry import isometry
from gsd_cli.metrics.made import made_batches
from gsd_cli.metrics.statistics import Statistics, frechet_distance, gaussian_statistics

GRID = 64
PAIRS = 96


@dataclass(frozen=True)
class Evaluation:
    """What `gsd distill` measures at each evaluation; leaves a grid of samples in `pictures`.

    Without an extractor only the grid is made; without reference statistics no distance.
    """

    pictures: Path
    extractor: Extractor | None
    reference: Statistics | None
    samples: int
    batch_size: int
    autoencoder: Autoencoder | None = None

    def __call__(self, generator: Generator, step: int) -> dict[str, float]:
        """Figures of the generator after `step` steps, measured at its pictures."""
        generator = Generator(generator.denoiser, generator.sigma_init, self.autoencoder)
        device = next(generator.parameters()).device
        with torch.no_grad():
            shown = range(min(GRID, self.samples))
            grid = generator(latents(shown, generator.latent_shape).to(device), labels_for(generator, shown))
        save_grid(grid, self.pictures / f"step-{step:07d}.png")
        if self.extractor is None:
            return {}
        figures = {}
        if self.reference is not None:
            features = generator_features(generator, self.extractor, range(self.samples), self.batch_size)
            figures["fd"] = frechet_distance(gaussian_statistics(features, self.extractor.name), self.reference)

        def images(z: Tensor) -> Tensor:
            return generator(z.to(device)).float()

        found = isometry(images, self.extractor.squared_distance, generator.latent_shape, min(PAIRS, self.samples // 2))
        return {**figures, "speed_cv": found.speed_cv, "spearman": found.spearman, "pair_distance": found.pair_distance}


def generator_features(generator: Generator, extractor: Extractor, seeds: range, batch_size: int) -> Iterator[Tensor]:
    """Feature batches of the images of `seeds`, on the fly: nothing is kept."""
    for batch in made_batches(generator, [extractor], seeds, batch_size):
        yield batch[extractor.name]
