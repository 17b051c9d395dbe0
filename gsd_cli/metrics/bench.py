"""The measurements behind `gsd bench`: baselines and the model, each figure by one protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from gsd_cli.core.denoiser import per_image
from gsd_cli.core.device import placed
from gsd_cli.core.generator import Generator, Model
from gsd_cli.core.noise import latents
from gsd_cli.core.samplers import ONE_STEP_SIGMA, Sampler
from gsd_cli.core.teachers import load_teacher
from gsd_cli.core.walks import walk
from gsd_cli.errors import GsdError
from gsd_cli.metrics import quality
from gsd_cli.metrics.baselines import sampled_statistics, shipped_statistics
from gsd_cli.metrics.clip import clip_features
from gsd_cli.metrics.comparison import Contender, Row, contenders, generator_subject, rival, timing_task
from gsd_cli.metrics.features import (
    Extractor,
    TeacherFeatures,
    classifier_features,
    features_folder,
    inception_features,
)
from gsd_cli.metrics.gallery import Gallery
from gsd_cli.metrics.latent_space import LatentSpace, ProgressOf
from gsd_cli.metrics.made import made_features
from gsd_cli.metrics.protocol import protocol
from gsd_cli.metrics.reference import reference_statistics
from gsd_cli.metrics.statistics import Statistics
from gsd_cli.metrics.throughput import peak_memory, throughput
from gsd_cli.metrics.timing import time_interleaved
from gsd_cli.options import BenchOptions
from gsd_cli.paths import cache_dir
from gsd_cli.registry import TEACHERS

DEFAULT_SAMPLES = 2000
REPEATS = 5
MANY_CALLS = 100
"""A sampler of more calls than this needs no warm-up: its first call is a hundredth of its time at most."""
PICTURES = range(10)
WALKS, FRAMES = 4, 12
GENERAL: dict[str, Callable[..., Extractor]] = {"inception": inception_features, "clip": clip_features}
"""Features of pictures of any kind; the others are made for a domain by `gsd prepare --fit-features`."""
FEATURE_METRICS = {"fd", "kid", "pr"}


class Bench:
    """Everything the rows share: models, features, reference, what was asked.

    name: what the model's row is called; rivals: other generators by name, after those of `--compare`.
    """

    def __init__(
        self, options: BenchOptions, wanted: set[str], model: Model, device: torch.device, progress: ProgressOf,
        check: Callable[[], None], name: str = "GSD", rivals: Mapping[str, Model] | None = None,
    ):  # fmt: skip
        self.options, self.wanted, self.model, self.device = options, wanted, model, device
        self.progress, self.check = progress, check
        self.cache = cache_dir(options.cache_dir)
        if model.teacher is None:
            raise GsdError(f"{model.folder} does not name its teacher", hint="gsd distill records it in gsd.json")
        revision = model.card.get("teacher_revision")
        self.teacher = load_teacher(model.teacher, offline=options.offline, revision=revision)
        placed(self.teacher.denoiser, device, training=False)
        placed(model.generator, device, training=False)
        self.teacher.autoencoder.to(device)
        if options.compile:
            self.teacher.denoiser.net.compile()
            model.generator.denoiser.net.compile()
        self.baselines = contenders(options.compare, self.teacher, device, check)
        self.baselines += [rival(label, other, device) for label, other in (rivals or {}).items()]
        self.ours = Contender(generator_subject(name, model.generator, device), model.generator)
        self._require_one_space()
        self.extractor, self.perceptual = self._extractors()
        self.figure = self.extractor.figure
        self.real = self._reference() if FEATURE_METRICS & wanted else None
        if self.real is not None and self.real.features is None and {"kid", "pr"} & wanted:
            raise GsdError(
                f"{self.real.name} holds no features of real images, which KID, precision and recall need",
                hint="make it anew: gsd prepare DATA writes them beside the statistics",
            )
        self.samples = options.num_samples or self._baseline_size()
        self.latent_space = LatentSpace(options, wanted, model, self.perceptual, progress, check)

    def rows(self) -> list[Row]:
        """Baselines first, the model last, as the paper prints them."""
        everyone = [*self.baselines, self.ours]
        rows = {c.name: Row(c.name, c.subject.calls, c.subject.parameters) for c in everyone}
        for contender in everyone:
            if self.real is not None:
                self._quality(rows[contender.name], contender, self.real)
        for contender in everyone:
            self.latent_space.measure(rows[contender.name], contender)
        if "time" in self.wanted:
            self._time(rows, everyone)
        if "memory" in self.wanted:
            self._memory(rows, everyone)
        if "throughput" in self.wanted:
            rows[self.ours.name].figures |= self._throughput()
        return list(rows.values())

    def too_few(self) -> str | None:
        """What to say of a Frechet distance of fewer images than there are features; None where there are enough."""
        if self.real is None or "fd" not in self.wanted or self.samples > (size := len(self.real.statistics.mu)):
            return None
        return f"{self.samples} images have no full covariance of {size} features: {self.figure} is mostly bias"

    def facts(self) -> dict[str, str]:
        """The protocol of every figure."""
        return protocol(self)

    def gallery(self) -> Gallery:
        """What a report shows of everyone here."""
        return Gallery(self._pictures(), self._walks())

    def _pictures(self) -> dict[str, Tensor]:
        """Figure 1: each baseline's samples above ours, same seeds."""
        z = latents(PICTURES, self.model.generator.latent_shape)
        with self.progress("figure 1"):
            return {c.name: c.subject.sample(z, PICTURES).cpu() for c in [*self.baselines, self.ours]}

    def _walks(self) -> dict[str, list[Tensor]]:
        """Walks between the same latents by every generator here, the model's first."""
        generators = [self.ours, *(c for c in self.baselines if isinstance(c.model, Generator))]
        z = latents(range(2 * WALKS), self.model.generator.latent_shape, "walk")
        pairs = list(zip(z[::2], z[1::2], strict=True))

        def walked(contender: Contender) -> list[Tensor]:
            def images(z: Tensor, _: Tensor) -> Tensor:
                return contender.subject.images(z)

            return [walk(a, b, FRAMES, "slerp", images, self.perceptual.embed).images.cpu() for a, b in pairs]

        with self.progress("latent walks"):
            return {contender.name: walked(contender) for contender in generators}

    def _require_one_space(self) -> None:
        shape = self.model.generator.latent_shape
        for contender in self.baselines:
            if isinstance(contender.model, Generator) and contender.model.latent_shape != shape:
                raise GsdError(f"{contender.name} has latents of {contender.model.latent_shape}, the model of {shape}")

    def _extractors(self) -> tuple[Extractor, Extractor]:
        """Features of the Frechet distance, and of the perceptual distance of path lengths."""
        spec = self.options.features or self.model.features or "inception"
        if spec not in GENERAL:
            extractor = classifier_features(spec, self.device, self.teacher.image_shape)
            return extractor, extractor
        perceptual = TeacherFeatures(self.teacher.denoiser, self.teacher.autoencoder)
        if not FEATURE_METRICS & self.wanted:
            return perceptual, perceptual
        return GENERAL[spec](self.cache, self.device, offline=self.options.offline), perceptual

    def _reference(self) -> quality.Real:
        options, spec = self.options, self.options.features or self.model.features
        folder = features_folder(spec) if spec and spec not in GENERAL else None
        stats = options.stats
        if stats is None and self.extractor.figure == "FID":
            known = TEACHERS.get(str(self.model.teacher))
            stats = known.statistics if known else None
        with self.progress("real images") as bar:

            def on_image(done: int) -> None:
                self.check()
                bar.update(done)

            return reference_statistics(
                stats, folder, self.extractor, self.cache, self.device, options.batch_size,
                shape=None if spec is None or spec in GENERAL else self.teacher.image_shape,
                offline=options.offline, on_image=on_image,
            )  # fmt: skip

    def _baseline_size(self) -> int:
        """As many samples as the shipped baseline has: distances compare at equal N."""
        shipped = [self._shipped(c.model) for c in self.baselines if isinstance(c.model, Sampler)]
        return min((s.n for s in shipped if s is not None), default=DEFAULT_SAMPLES)

    def _shipped(self, sampler: Sampler) -> Statistics | None:
        return shipped_statistics(self.teacher, sampler, self.extractor)

    def _quality(self, row: Row, contender: Contender, real: quality.Real) -> None:
        """Frechet distance, KID, precision and recall, as asked."""
        made, origin = self._made(contender)
        row.protocol["samples"] = f"{self.samples} samples, {origin}"
        if "fd" in self.wanted:
            row.figures |= quality.frechet_figures(made, real, self.options.seed)
        if isinstance(made, Tensor) and real.features is not None:
            if "kid" in self.wanted:
                row.figures |= quality.kernel_figures(made, real.features, self.options.seed)
            if "pr" in self.wanted:
                row.figures |= quality.manifold_figures(made, real.features)

    def _made(self, contender: Contender) -> tuple[Tensor | Statistics, str]:
        """Features of a contender's images, or statistics where there is no more; and where they come from."""
        if isinstance(contender.model, Sampler):
            found, origin = self._baseline(contender.model)
            return (found if found.features is None else found.features), origin
        with self.progress(f"images of {contender.name}", self.samples) as bar:

            def on_batch(count: int) -> None:
                self.check()
                bar.advance(count)

            size = self.options.batch_size
            return made_features(contender.model, self.extractor, self.samples, size, on_batch), "made now"

    def _baseline(self, sampler: Sampler) -> tuple[Statistics, str]:
        """Statistics of the teacher's samples with their features, and where they come from."""
        shipped = self._shipped(sampler)
        if shipped is not None and shipped.n == self.samples:
            return shipped, "statistics shipped with the teacher"
        with self.progress(f"images of {sampler.name}") as bar:

            def on_step(done: int, total: int) -> None:
                self.check()
                bar.update(done, total)

            found = sampled_statistics(
                self.teacher, sampler, self.extractor, self.samples, self.cache, self.device,
                self.options.batch_size, on_step,
            )  # fmt: skip
        return found, "made here, kept in the cache"

    def _time(self, rows: dict[str, Row], everyone: list[Contender]) -> None:
        batch, shape = self.options.time_batch, self.model.generator.latent_shape
        tasks = {c.name: timing_task(c.subject, batch, shape) for c in everyone}
        with self.progress("timing", REPEATS * len(tasks)) as bar:
            for contender in everyone:
                if contender.subject.calls <= MANY_CALLS:
                    tasks[contender.name]()
            timings = time_interleaved(tasks, batch, self.device, REPEATS, lambda done, _: bar.update(done))
        for name, timing in timings.items():
            rows[name].time = timing

    def _memory(self, rows: dict[str, Row], everyone: list[Contender]) -> None:
        z = latents(range(self.options.batch_size), self.model.generator.latent_shape, "timing").to(self.device)
        for contender in everyone:
            teacher = partial(self.teacher.denoiser, sigma=per_image(ONE_STEP_SIGMA, z))
            found = peak_memory(contender.model if isinstance(contender.model, Generator) else teacher, z)
            if found is not None:
                rows[contender.name].figures["peak_memory_mb"] = found / 1e6

    def _throughput(self) -> dict[str, float]:
        """Images a second of the model by batch size."""
        with self.progress("throughput"):
            rates = throughput(self.model.generator, self.device, self.options.batch_size, self.check)
        return {f"images_per_second_{size}": rate for size, rate in rates.items()}
