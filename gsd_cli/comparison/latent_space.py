"""What gsd bench measures of a latent space: path length, isometry, diversity, edits, each with progress."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gsd_cli.comparison.contenders import Contender, Row
from gsd_cli.comparison.edits import measure_edits
from gsd_cli.core.editing.known_attributes import TRAITS
from gsd_cli.core.models.generator import Generator, Model
from gsd_cli.metrics import geometry
from gsd_cli.metrics.diversity import PAIRS, diversity
from gsd_cli.metrics.features import Extractor
from gsd_cli.metrics.path_length import NOISY, PathLength, noise_floor, path_length
from gsd_cli.options import BenchOptions

EPSILON = 1e-4
COARSE_EPSILON = 1e-3

ProgressOf = Callable[..., AbstractContextManager[Any]]
"""progress(what, total=None) yields something with update(done, total=None) and advance(count)."""


@dataclass
class LatentSpace:
    """Measures of contenders' latent spaces, all in one perceptual distance.

    model: whose latents and whose domain; check: called between batches, may raise to stop;
    ppl_protocol: how path lengths were taken, once one was; notes: what a reader of the figures must know.
    """

    options: BenchOptions
    wanted: set[str]
    model: Model
    perceptual: Extractor
    progress: ProgressOf
    check: Callable[[], None]
    ppl_protocol: str = ""
    notes: list[str] = field(default_factory=list)

    def measure(self, row: Row, contender: Contender) -> None:
        """Put what is wanted into the contender's row."""
        if "ppl" in self.wanted:
            self._path_lengths(row, contender)
        if "isometry" in self.wanted:
            row.figures |= self._isometry(contender)
        if "diversity" in self.wanted:
            row.figures |= self._diversity(contender)
        if "edit" in self.wanted and isinstance(contender.model, Generator):
            row.edits = self._edits(contender.name, contender.model)

    def _path_lengths(self, row: Row, contender: Contender) -> None:
        found, subject = self._path_length(contender, EPSILON), contender.subject
        row.figures |= {"ppl": found.mean, "ppl_low": found.low, "ppl_high": found.high}
        row.figures |= {
            "ppl_untrimmed": found.untrimmed,
            "ppl_untrimmed_low": found.untrimmed_low,
            "ppl_untrimmed_high": found.untrimmed_high,
        }
        self.ppl_protocol = found.protocol
        row.protocol["ppl"] = f"{found.protocol}, {subject.images_protocol}"
        if subject.calls == 1:  # checks of the protocol, cheap where a picture is one call
            row.figures["ppl_1e-3"] = self._path_length(contender, COARSE_EPSILON).mean
            floor = noise_floor(subject.images, self.perceptual.squared_distance, self.model.generator.latent_shape)
            row.figures["ppl_noise_floor"] = floor / EPSILON**2
            if floor / EPSILON**2 > NOISY * found.mean:
                self.notes.append(
                    f"PPL of {row.name}: arithmetic alone makes {floor / EPSILON**2:.3g} of its {found.mean:.3g}; "
                    "compare ppl_1e-3, where it is a hundredth of that"
                )

    def _path_length(self, contender: Contender, epsilon: float) -> PathLength:
        pairs, shape = self.options.ppl_samples, self.model.generator.latent_shape
        with self.progress(f"PPL of {contender.name}", pairs) as bar:

            def on_batch(done: int, _total: int) -> None:
                self.check()
                bar.update(done)

            return path_length(
                contender.subject.images, self.perceptual.squared_distance, shape, pairs, epsilon, self.options.seed,
                self.options.batch_size, on_batch,
            )  # fmt: skip

    def _isometry(self, contender: Contender) -> dict[str, float]:
        """The isometry report; a figure that is no number, of a collapsed generator, is absent."""
        shape = self.model.generator.latent_shape
        with self.progress(f"isometry of {contender.name}") as bar:

            def on_batch(done: int, total: int) -> None:
                self.check()
                bar.update(done, total)

            found = geometry.geometry(
                contender.subject.images, self.perceptual.embed, shape, seed=self.options.seed,
                batch_size=self.options.batch_size, on_batch=on_batch,
            )  # fmt: skip
        return {name: value for name, value in asdict(found).items() if math.isfinite(value)}

    def _diversity(self, contender: Contender) -> dict[str, float]:
        with self.progress(f"diversity of {contender.name}", 2 * PAIRS) as bar:

            def on_batch(done: int) -> None:
                self.check()
                bar.update(done)

            return diversity(
                contender.subject.images, self.perceptual.squared_distance, self.model.generator.latent_shape,
                self.options.batch_size, on_batch,
            )  # fmt: skip

    def _edits(self, name: str, generator: Generator) -> dict[str, dict[str, float]]:
        """What edits of a generator achieve; attributes are found in the model's domain, whoever is edited."""
        with self.progress(f"edits of {name}", len(TRAITS)) as bar:

            def on_attribute(done: int) -> None:
                self.check()
                bar.update(done)

            edited = replace(self.model, generator=generator)
            return measure_edits(edited, self.options.edit_samples, self.options.batch_size, on_attribute)
