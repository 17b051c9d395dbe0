"""The measurements behind `gsd bench`: baselines and the model, each figure by one protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import cache_dir
from gsd_cli.catalogue.registry import TEACHERS, further_features
from gsd_cli.comparison.contenders import Contender, Row, contenders, generator_subject, rival, timing_task
from gsd_cli.comparison.fidelity import Fidelity
from gsd_cli.comparison.gallery import Gallery
from gsd_cli.comparison.latent_space import LatentSpace, ProgressOf
from gsd_cli.comparison.protocol import protocol
from gsd_cli.compute.device import autocast, compile_network, resolve_precision, to_device
from gsd_cli.compute.random import latents
from gsd_cli.core.latents.walks import walk
from gsd_cli.core.models.denoiser import per_image
from gsd_cli.core.models.generator import Generator, Model
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.core.sampling.one_step import ONE_STEP_SIGMA
from gsd_cli.core.sampling.samplers import Sampler
from gsd_cli.metrics.baselines import shipped_statistics
from gsd_cli.metrics.clip import clip_features
from gsd_cli.metrics.features import (
    Extractor,
    TeacherFeatures,
    classifier_features,
    features_folder,
    inception_features,
)
from gsd_cli.metrics.reference import Judge, is_data_set, real_grain, reference_statistics
from gsd_cli.metrics.throughput import peak_memory, throughput
from gsd_cli.metrics.timing import time_interleaved
from gsd_cli.options import BenchOptions

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
        to_device(self.teacher.denoiser, device, training=False)
        to_device(model.generator, device, training=False)
        self.teacher.autoencoder.to(device)
        if options.compile:
            compile_network(self.teacher.denoiser.net)
            compile_network(model.generator.denoiser.net)
        precision = self.precision = resolve_precision(options.precision, device)
        self.baselines = contenders(options.compare, self.teacher, device, check, precision)
        self.baselines += [rival(label, other, device, precision) for label, other in (rivals or {}).items()]
        self.ours = Contender(generator_subject(name, model.generator, device, precision), model.generator)
        self._require_one_space()
        self.extractor, self.perceptual = self._extractors()
        self.figure = self.extractor.figure
        self.judges = self._judges()
        self.real_figures, self.real_name = self._real_grain() if "grain" in wanted else ({}, "")
        self.samples = options.num_samples or self._baseline_size()
        self.fidelity = Fidelity(
            options, wanted, self.teacher, self.judges, self.samples, self.cache, device, progress, check
        )
        self.latent_space = LatentSpace(options, wanted, model, self.perceptual, progress, check)

    def rows(self) -> list[Row]:
        """Baselines first, the model last, as the paper prints them."""
        everyone = [*self.baselines, self.ours]
        rows = {c.name: Row(c.name, c.subject.calls, c.subject.parameters) for c in everyone}
        for contender in everyone:
            self.fidelity.measure(rows[contender.name], contender)
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
        if "fd" not in self.wanted:
            return None
        sizes = {judge.extractor.figure: len(judge.real.statistics.mu) for judge in self.judges}
        short = [f"{size} features: {figure} is mostly bias" for figure, size in sizes.items() if self.samples <= size]
        return f"{self.samples} images have no full covariance of {', of '.join(short)}" if short else None

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
        spec = self._own_features
        if spec is not None:
            extractor = classifier_features(spec, self.device, self.teacher.image_shape)
            return extractor, extractor
        perceptual = TeacherFeatures(self.teacher.denoiser, self.teacher.autoencoder)
        if not FEATURE_METRICS & self.wanted:
            return perceptual, perceptual
        general = GENERAL[self.options.features or self.model.features or "inception"]
        return general(self.cache, self.device, offline=self.options.offline), perceptual

    def _baseline_size(self) -> int:
        """As many samples as the shipped baseline has: distances compare at equal N."""
        samplers = [c.model for c in self.baselines if isinstance(c.model, Sampler)]
        shipped = [shipped_statistics(self.teacher, sampler, self.extractor) for sampler in samplers]
        return min((s.n for s in shipped if s is not None), default=DEFAULT_SAMPLES)

    def _real_grain(self) -> tuple[dict[str, float], str]:
        """The grain of the real images, and whose it is."""
        options, spec = self.options, self._own_features
        with self.progress("grain of real images") as bar:

            def on_image(done: int) -> None:
                self.check()
                bar.update(done)

            return real_grain(options.stats, features_folder(spec) if spec else None, options.batch_size, on_image)

    def _judges(self) -> list[Judge]:
        """Who judges the images: the first decides; the others of the domain judge too where none is named."""
        options = self.options
        if not FEATURE_METRICS & self.wanted:
            return []
        judges = [self._judge(self.extractor)]
        if judges[0].real.features is None and {"kid", "pr"} & self.wanted:
            raise GsdError(
                f"{judges[0].real.name} holds no features of real images, which KID, precision and recall need",
                hint="make it anew: gsd prepare DATA writes them beside the statistics",
            )
        anything = options.stats is None or is_data_set(Path(options.stats))
        if "fd" in self.wanted and options.features is None and anything:
            shape = self.teacher.image_shape
            for name in further_features(self.model.features):
                judges.append(self._judge(classifier_features(name, self.device, shape), name))
        return judges

    def _judge(self, extractor: Extractor, spec: str | None = None) -> Judge:
        """The extractor with the real images as it sees them. spec: the feature set it is, if not the model's own."""
        options = self.options
        spec = spec or self._own_features
        stats = options.stats
        if stats is None and extractor.figure == "FID":
            known = TEACHERS.get(str(self.model.teacher))
            stats = known.statistics if known else None
        with self.progress("real images") as bar:

            def on_image(done: int) -> None:
                self.check()
                bar.update(done)

            real = reference_statistics(
                stats, features_folder(spec) if spec else None, extractor, self.cache, self.device, options.batch_size,
                shape=self.teacher.image_shape if spec else None, offline=options.offline, on_image=on_image,
            )  # fmt: skip
        return Judge(extractor, real)

    @property
    def _own_features(self) -> str | None:
        """The feature set made for a domain that was asked for or that the model names; None for a general one."""
        spec = self.options.features or self.model.features
        return None if spec in GENERAL else spec

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
        classes = self.teacher.denoiser.classes
        labels = torch.zeros(len(z), dtype=torch.long, device=self.device) if classes else None
        for contender in everyone:
            teacher = partial(self.teacher.denoiser, sigma=per_image(ONE_STEP_SIGMA, z), labels=labels)
            with autocast(self.device, self.options.precision):
                found = peak_memory(contender.model if isinstance(contender.model, Generator) else teacher, z)
            if found is not None:
                rows[contender.name].figures["peak_memory_mb"] = found / 1e6

    def _throughput(self) -> dict[str, float]:
        """Images a second of the model by batch size."""
        with self.progress("throughput"), autocast(self.device, self.options.precision):
            rates = throughput(self.model.generator, self.device, self.options.batch_size, self.check)
        return {f"images_per_second_{size}": rate for size, rate in rates.items()}
