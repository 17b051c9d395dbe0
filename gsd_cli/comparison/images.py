"""Each contender's images are made once, and everything that looks at images sees the same ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from gsd_cli.comparison.contenders import Contender
from gsd_cli.comparison.context import Context
from gsd_cli.core.models.renderer import Renderer
from gsd_cli.core.sampling.samplers import Sampler
from gsd_cli.metrics.baselines import keep_statistics, sampled_batches, shipped_statistics
from gsd_cli.metrics.features import Measure
from gsd_cli.metrics.generated import generated_batches
from gsd_cli.metrics.statistics import Statistics

Seen = dict[str, Any]
"""By a measure's name the result of its look, where it saw all images."""


class Collector(Protocol):
    """Takes in the vectors of images batch by batch."""

    count: int

    def add(self, vectors: Tensor) -> None:
        """Take in the vectors [B, F] of the next images."""


@dataclass(frozen=True)
class Look:
    """One way to look at images.

    measure: images to one vector each; title: what the figures are called where they are missing; collect(n): takes in
    the vectors of n images; result: what a full collector found. optional: a slow baseline is not sampled again for it.
    """

    measure: Measure
    title: str
    collect: Callable[[int], Collector]
    result: Callable[[Any], Any]
    optional: bool = True

    @property
    def name(self) -> str:
        """The measure's name."""
        return self.measure.name


def look_at_images(context: Context, contender: Contender, looks: Sequence[Look]) -> tuple[Seen, str]:
    """What the looks find in `context.samples` images of a contender, and where the images come from.

    Looks at images that are not stored and take too many calls to make again are absent, and in `context.missing`.
    """
    if isinstance(contender.model, Sampler):
        return _look_at_baseline(context, contender.model, looks)
    made_by = context.renderer if contender is context.ours else contender.model
    return _look_at_generator(context, contender.name, made_by, looks), "made now"


def _look_at_generator(context: Context, name: str, generator: Renderer, looks: Sequence[Look]) -> Seen:
    options, measures = context.options, [look.measure for look in looks]
    with context.session.progress(f"images of {name}", context.samples) as bar:
        seeds = range(context.samples)
        batches = generated_batches(generator, measures, seeds, options.batch_size, context.precision, context.device)
        return _collect(batches, looks, context.samples, bar.advance)


def _look_at_baseline(context: Context, sampler: Sampler, looks: Sequence[Look]) -> tuple[Seen, str]:
    """What is shipped with the teacher; the rest from the cache, or from images made now where that is cheap."""
    teacher, options = context.teacher, context.options
    shipped = _shipped(context, sampler, looks)
    needed = [look for look in looks if look.name not in shipped]
    with context.session.progress(f"images of {sampler.name}") as bar:
        batches = sampled_batches(
            teacher, sampler, [look.measure for look in needed], context.samples, context.session.cache, context.device,
            options.batch_size, bar.update, optional={look.name for look in needed if look.optional},
        )  # fmt: skip
        found = _collect(batches, needed, context.samples)
    for look in needed:
        if isinstance(features := found.get(look.name), Tensor):
            keep_statistics(teacher, sampler, look.measure, features, context.session.cache)
    missing = [look.title for look in needed if look.name not in found]
    if missing:
        context.missing[sampler.name] = missing
    origins = {"shipped with the teacher": shipped, "made here, kept in the cache": found}
    return {**shipped, **found}, " and ".join(origin for origin, some in origins.items() if some)


def _shipped(context: Context, sampler: Sampler, looks: Sequence[Look]) -> dict[str, Tensor | Statistics]:
    """The bundled teacher's statistics of `context.samples` samples: of all of them, or of the first of more."""
    found: dict[str, Tensor | Statistics] = {}
    for look in looks:
        statistics = shipped_statistics(context.teacher, sampler, look.name)
        if statistics is None or statistics.n < context.samples:
            continue
        if statistics.features is not None and len(statistics.features) == statistics.n:
            found[look.name] = statistics.features[: context.samples]
        elif statistics.n == context.samples:
            found[look.name] = statistics
    return found


def _collect(
    batches: Iterable[Mapping[str, Tensor]], looks: Sequence[Look], samples: int,
    on_image: Callable[[int], None] = lambda count: None,
) -> Seen:  # fmt: skip
    """The results of the looks that saw all images."""
    collectors = {look.name: look.collect(samples) for look in looks}
    for batch in batches:
        for name, vectors in batch.items():
            collectors[name].add(vectors)
        on_image(max(map(len, batch.values()), default=0))
    return {look.name: look.result(collectors[look.name]) for look in looks if collectors[look.name].count == samples}
