"""Measures a generator during and after its training, always on the same latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from gsd_cli.catalogue.run_layout import grid_name
from gsd_cli.compute.device import in_full_precision
from gsd_cli.compute.distributed import World
from gsd_cli.compute.random import latents
from gsd_cli.core.models.autoencoder import Autoencoder
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.sampling.images import conditions_for
from gsd_cli.data.pixels import save_grid
from gsd_cli.metrics.features import ClassifierFeatures, Extractor
from gsd_cli.metrics.frechet_error import FOR_A_SPREAD, measure_precision
from gsd_cli.metrics.generated import generated_batches
from gsd_cli.metrics.image_quality import precision_recall_figures
from gsd_cli.metrics.isometry import EVALUATION_PATHS, isometry
from gsd_cli.metrics.statistics import Statistics, frechet_distance, gaussian_statistics

GRID = 64
CHEAP_FEATURES = 128
"""Of more features the standard error of a distance takes seconds, which a run spends on training."""
NEIGHBOURS = 5
"""Precision and recall need more images than this."""


@dataclass(frozen=True)
class Evaluation:
    """What `gsd distill` measures at each evaluation; writes a grid of samples into `grids`.

    Without an extractor only the grid is made; without reference statistics no distance.
    """

    grids: Path
    extractor: Extractor | None
    reference: Statistics | None
    samples: int
    batch_size: int
    autoencoder: Autoencoder | None = None
    world: World = field(default_factory=World)
    doing: Callable[[str], None] = lambda activity: None
    """Called with what is measured at the moment."""

    @in_full_precision
    def __call__(self, generator: Generator, step: int) -> dict[str, float]:
        """Figures of the generator after `step` steps, measured on its images.

        The processes of `world` share the images; the main one gets the figures, the others nothing.
        """
        generator = generator.decoded_by(self.autoencoder)
        device = generator.device
        measured = self.extractor is not None and self.reference is not None
        features = self._features(generator) if measured else None
        if not self.world.main:
            return {}
        with torch.no_grad():
            shown = range(min(GRID, self.samples))
            grid = generator(latents(shown, generator.latent_shape).to(device), conditions_for(generator, shown))
        save_grid(grid, self.grids / grid_name(step))
        if self.extractor is None:
            return {}
        figures: dict[str, float] = {}
        if self.reference is not None and features is not None:
            statistics = gaussian_statistics([features], self.extractor.name)
            figures = {"fd": frechet_distance(statistics, self.reference), **self._variety(features)}
            if len(features) >= FOR_A_SPREAD and features.shape[1] <= CHEAP_FEATURES:
                figures["fd_error"] = measure_precision(features, self.reference, to_infinity=False).error

        def images(z: Tensor) -> Tensor:
            return generator(z.to(device)).float()

        self.doing("measuring the isometry of the generator")
        paths = min(EVALUATION_PATHS, self.samples // 2)
        found = isometry(images, self.extractor.embed, generator.latent_shape, paths, batch_size=self.batch_size)
        return {**figures, **asdict(found)}

    @property
    def measures_variety(self) -> bool:
        """Whether the figures include recall and coverage, which need the features of single real images."""
        return self.reference is not None and self.reference.features is not None

    def _features(self, generator: Generator) -> Tensor:
        """Features [N, F] of all images. Processes take whole batches in turn, those that one alone would make."""
        assert self.extractor is not None
        seeds, size, world = range(self.samples), self.batch_size, self.world
        batches = [seeds[start : start + size] for start in range(0, len(seeds), size)]
        found = []
        for turn in range(0, len(batches), world.size):
            own = batches[min(turn + world.rank, len(batches) - 1)]
            (vectors,) = (batch.cpu() for batch in generator_features(generator, self.extractor, own, size))
            # gathered tensors need one shape: the padding comes after the last image and is cut off
            self.doing(f"measuring {self._subject()} ... {min(1.0, (turn + 1) / len(batches)):.0%}")
            found.append(world.gather(torch.cat([vectors, vectors[-1:].expand(size - len(vectors), -1)])))
        return torch.cat(found)[: len(seeds)]

    def _subject(self) -> str:
        figure = "" if self.extractor is None else self.extractor.figure
        return f"{figure} on {self.samples:,} samples"

    def _variety(self, features: Tensor) -> dict[str, float]:
        """Figures that show a collapse where a distance does not. features: [N, F] of generated images.

        They are precision, recall and coverage, and the share of the rarest class over that of the commonest.
        """
        figures: dict[str, float] = {}
        real = self.reference.features if self.reference is not None else None
        if real is not None and min(len(real), len(features)) > NEIGHBOURS:
            found = precision_recall_figures(features, real)
            figures = {name: found[name] for name in ("precision", "recall", "coverage")}
        if isinstance(self.extractor, ClassifierFeatures):
            figures["class_balance"] = self.extractor.class_balance(features)
        return figures


def generator_features(generator: Generator, extractor: Extractor, seeds: range, batch_size: int) -> Iterator[Tensor]:
    """Yield feature batches of the images of `seeds`; nothing is kept."""
    for batch in generated_batches(generator, [extractor], seeds, batch_size):
        yield batch[extractor.name]
