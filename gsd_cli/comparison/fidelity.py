"""What gsd bench measures of images: Frechet distances, KID, precision and recall, grain, all of the same images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from gsd_cli.comparison.contenders import Contender, Row
from gsd_cli.comparison.latent_space import ProgressOf
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.models.teacher import Teacher
from gsd_cli.core.sampling.samplers import Sampler
from gsd_cli.metrics import image_quality as quality
from gsd_cli.metrics.baselines import keep_statistics, sampled_batches, shipped_statistics
from gsd_cli.metrics.features import Measure
from gsd_cli.metrics.generated import Features, made_batches
from gsd_cli.metrics.grain import Grain, GrainCounts
from gsd_cli.metrics.reference import Judge
from gsd_cli.metrics.statistics import Statistics
from gsd_cli.options import BenchOptions


@dataclass
class Fidelity:
    """Measures of contenders' images, the same `samples` of each for all measures.

    judges: whose Frechet distances; the first also gives KID, precision and recall. check: called between batches,
    may raise to stop. missing: by contender what was not measured, because its images are not stored and take
    too many calls to be made again.
    """

    options: BenchOptions
    wanted: set[str]
    teacher: Teacher
    judges: Sequence[Judge]
    samples: int
    cache: Path
    device: torch.device
    progress: ProgressOf
    check: Callable[[], None]
    missing: dict[str, list[str]] = field(default_factory=dict)

    def measure(self, row: Row, contender: Contender) -> None:
        """Put what is wanted into the contender's row."""
        if not (self.judges or "grain" in self.wanted):
            return
        seen, origin = self._seen(contender)
        if seen:
            row.protocol["samples"] = f"{self.samples} samples, {origin}"
        if "fd" in self.wanted:
            row.distances = self._distances(seen)
        for judge in self.judges[:1]:
            row.figures |= row.distances.get(judge.extractor.figure, {})
            made, real = seen.get(judge.extractor.name), judge.real.features
            if isinstance(made, Tensor) and real is not None:
                if "kid" in self.wanted:
                    row.figures |= quality.kernel_figures(made, real, self.options.seed)
                if "pr" in self.wanted:
                    row.figures |= quality.manifold_figures(made, real)
        grain = seen.get(GrainCounts.name)
        if isinstance(grain, Grain):
            row.figures |= grain.figures()

    def _distances(self, seen: Mapping[str, Tensor | Statistics | Grain]) -> dict[str, dict[str, float]]:
        found = {}
        for judge in self.judges:
            made = seen.get(judge.extractor.name)
            if isinstance(made, Tensor | Statistics):
                found[judge.extractor.figure] = quality.frechet_figures(made, judge.real, self.options.seed)
        return found

    def _seen(self, contender: Contender) -> tuple[dict[str, Tensor | Statistics | Grain], str]:
        """What each measure saw of a contender's images, by the measure's name, and where they come from."""
        if isinstance(contender.model, Sampler):
            return self._seen_of_teacher(contender.model)
        return self._seen_of_generator(contender.name, contender.model), "made now"

    def _seen_of_generator(self, name: str, generator: Generator) -> dict[str, Tensor | Statistics | Grain]:
        with self.progress(f"images of {name}", self.samples) as bar:

            def on_image(count: int) -> None:
                self.check()
                bar.advance(count)

            batches = made_batches(
                generator, self._measures, range(self.samples), self.options.batch_size, self.options.precision
            )
            return self._collected(batches, self._measures, on_image)

    def _seen_of_teacher(self, sampler: Sampler) -> tuple[dict[str, Tensor | Statistics | Grain], str]:
        """What is shipped with the teacher, and what its images show: of the cache, else made where that is cheap."""
        shipped = self._shipped(sampler)
        measures = [measure for measure in self._measures if measure.name not in shipped]
        needed = [judge.extractor.name for judge in self.judges[:1] if judge.extractor.name not in shipped]
        with self.progress(f"images of {sampler.name}") as bar:

            def on_step(done: int, total: int) -> None:
                self.check()
                bar.update(done, total)

            batches = sampled_batches(
                self.teacher, sampler, measures, self.samples, self.cache, self.device, self.options.batch_size,
                on_step, optional={measure.name for measure in measures}.difference(needed),
            )  # fmt: skip
            found = self._collected(batches, measures)
        for name, features in found.items():
            if isinstance(features, Tensor):
                keep_statistics(self.teacher, sampler, name, features, self.cache)
        left_out = [self._titles[measure.name] for measure in measures if measure.name not in found]
        if left_out:
            self.missing[sampler.name] = left_out
        origins = {"shipped with the teacher": shipped, "made here, kept in the cache": found}
        return {**shipped, **found}, " and ".join(origin for origin, some in origins.items() if some)

    def _shipped(self, sampler: Sampler) -> dict[str, Tensor | Statistics]:
        """What the bundled teacher's own statistics say of as many samples: all of them, or the first of more."""
        found: dict[str, Tensor | Statistics] = {}
        for extractor in (judge.extractor for judge in self.judges):
            statistics = shipped_statistics(self.teacher, sampler, extractor)
            if statistics is None or statistics.n < self.samples:
                continue
            if statistics.features is not None and len(statistics.features) == statistics.n:
                found[extractor.name] = statistics.features[: self.samples]
            elif statistics.n == self.samples:
                found[extractor.name] = statistics
        return found

    def _collected(
        self, batches: Iterable[Mapping[str, Tensor]], measures: Sequence[Measure],
        on_image: Callable[[int], None] = lambda count: None,
    ) -> dict[str, Tensor | Statistics | Grain]:  # fmt: skip
        """What the measures that saw all images found."""
        kinds = {measure.name: Grain if isinstance(measure, GrainCounts) else Features for measure in measures}
        seen = {name: kind(self.samples) for name, kind in kinds.items()}
        for batch in batches:
            for name, vectors in batch.items():
                seen[name].add(vectors)
            on_image(max(map(len, batch.values()), default=0))
        whole = {name: one for name, one in seen.items() if one.count == self.samples}
        return {name: one if isinstance(one, Grain) else one.found(name) for name, one in whole.items()}

    @property
    def _measures(self) -> list[Measure]:
        judges: list[Measure] = [judge.extractor for judge in self.judges]
        return [*judges, GrainCounts()] if "grain" in self.wanted else judges

    @property
    def _titles(self) -> dict[str, str]:
        """How the figures of each measure are called."""
        return {judge.extractor.name: judge.extractor.figure for judge in self.judges} | {GrainCounts.name: "grain"}
