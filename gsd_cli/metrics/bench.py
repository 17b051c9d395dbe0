"""The measurements behind `gsd bench`: baselines and the model, each figure by one protocol."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from gsd_cli.core.device import placed
from gsd_cli.core.generator import Model
from gsd_cli.core.noise import latents
from gsd_cli.core.samplers import Sampler, parse_sampler
from gsd_cli.core.teachers import load_teacher
from gsd_cli.errors import GsdError
from gsd_cli.metrics import geometry
from gsd_cli.metrics.baselines import reference_statistics, sampled_statistics, shipped_statistics
from gsd_cli.metrics.comparison import Row, Subject, baseline_subject, generator_subject, timing_task
from gsd_cli.metrics.evaluation import generator_features
from gsd_cli.metrics.features import (
    Extractor,
    TeacherFeatures,
    classifier_features,
    features_folder,
    inception_features,
)
from gsd_cli.metrics.ppl import PathLength, noise_floor, path_length
from gsd_cli.metrics.statistics import Statistics, frechet_distance, gaussian_statistics
from gsd_cli.metrics.timing import time_interleaved
from gsd_cli.options import BenchOptions
from gsd_cli.paths import cache_dir

EPSILON = 1e-4
COARSE_EPSILON = 1e-3
DEFAULT_SAMPLES = 2000
REPEATS = 5
PICTURES = range(10)

ProgressOf = Callable[..., AbstractContextManager[Any]]
"""progress(what, total=None) yields something with update(done, total=None) and advance(count)."""


class Bench:
    """Everything the rows share: models, features, reference, what was asked."""

    def __init__(
        self, options: BenchOptions, wanted: set[str], model: Model, device: torch.device, progress: ProgressOf,
        check: Callable[[], None],
    ):  # fmt: skip
        self.options, self.wanted, self.model, self.device = options, wanted, model, device
        self.progress, self.check = progress, check
        self.samplers = [parse_sampler(name.strip()) for name in options.compare.split(",") if name.strip()]
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
        self.extractor, self.perceptual = self._extractors()
        self.figure = self.extractor.figure
        self.reference: Statistics | None = None
        self.reference_name = ""
        if "fd" in wanted:
            self.reference, self.reference_name = self._reference()
        self.samples = options.num_samples or self._baseline_size()
        self.ppl_protocol = ""

    def rows(self) -> list[Row]:
        """Baselines first, the model last, as the paper prints them."""
        subjects: dict[str, tuple[Subject, Sampler | None]] = {}
        self.samplers = [s.fitted(self.teacher.denoiser, self.device) for s in self.samplers]
        for sampler in self.samplers:
            subject = baseline_subject(sampler, self.teacher, self.device, self.check)
            subjects[subject.name] = (subject, sampler)
        ours = generator_subject("GSD", self.model.generator, self.device)
        subjects[ours.name] = (ours, None)
        rows = {name: Row(name, s.calls, s.parameters) for name, (s, _) in subjects.items()}
        if "fd" in self.wanted:
            for name, (_, maybe) in subjects.items():
                self._frechet(rows[name], maybe)
        for name, (subject, _) in subjects.items():
            self._geometry(rows[name], subject)
        if "time" in self.wanted:
            self._time(rows, {name: s for name, (s, _) in subjects.items()})
        return list(rows.values())

    def facts(self) -> dict[str, str]:
        """The protocol of every figure."""
        facts = {"model": self.model.name, "teacher": self.teacher.name, "device": str(self.device)}
        if self.reference is not None:
            facts[self.figure] = (
                f"{self.samples} samples (seeds 0-{self.samples - 1}, 8-bit) against {self.reference_name} "
                f"({self.reference.n or 'unknown'} images); biased upwards at small N, compare at equal N only"
            )
        if "ppl" in self.wanted:
            facts["PPL"] = (
                f"{self.ppl_protocol}; distance: channel-normalised {self.perceptual.name} maps; "
                "multi-step models through their deterministic sampler (eta 0)"
            )
        if "isometry" in self.wanted:
            facts["isometry"] = (
                f"{geometry.PATHS} random great circles to angles in [0.02, pi/2], {geometry.SEGMENTS} segments; speed "
                f"over {geometry.STEP} rad; Jacobian in {geometry.DIRECTIONS} tangents at {geometry.PROBES} latents; "
                f"distance: channel-normalised {self.perceptual.name} maps"
            )
        if "time" in self.wanted:
            facts["time"] = (
                f"seconds an image at batch {self.options.time_batch}, median of 5 after one warm-up, models "
                "interleaved in one process, loading excluded"
            )
        return facts

    def pictures(self) -> dict[str, Tensor]:
        """Figure 1: each baseline's samples above ours, same seeds."""
        seeds = PICTURES
        z = latents(seeds, self.model.generator.latent_shape)
        with self.progress("figure 1"):
            made = {
                s.name: baseline_subject(s, self.teacher, self.device, self.check).sample(z, seeds).cpu()
                for s in self.samplers
            }
            made["GSD"] = generator_subject("GSD", self.model.generator, self.device).sample(z, seeds).cpu()
        return made

    def _extractors(self) -> tuple[Extractor, Extractor]:
        """Features of the Frechet distance, and of the perceptual distance of path lengths."""
        spec = self.options.features or self.model.features or "inception"
        if spec != "inception":
            extractor = classifier_features(spec, self.device)
            return extractor, extractor
        perceptual = TeacherFeatures(self.teacher.denoiser, self.teacher.autoencoder)
        if "fd" not in self.wanted:
            return perceptual, perceptual
        return inception_features(self.cache, self.device, offline=self.options.offline), perceptual

    def _reference(self) -> tuple[Statistics, str]:
        spec = self.options.features or self.model.features
        folder = features_folder(spec) if spec and spec != "inception" else None
        return reference_statistics(self.options.stats, folder, self.extractor)

    def _baseline_size(self) -> int:
        """As many samples as the shipped baseline has: distances compare at equal N."""
        shipped = [self._shipped(sampler) for sampler in self.samplers]
        return min((s.n for s in shipped if s is not None), default=DEFAULT_SAMPLES)

    def _shipped(self, sampler: Sampler) -> Statistics | None:
        return shipped_statistics(self.teacher, sampler, self.extractor)

    def _frechet(self, row: Row, sampler: Sampler | None) -> None:
        if self.reference is None:
            return
        if sampler is None:
            found, origin = gaussian_statistics(self._model_features(), self.extractor.name), "made now"
        else:
            found, origin = self._baseline(sampler)
        row.protocol["fd"] = f"{found.n} samples, {origin}"
        row.figures["fd"] = frechet_distance(found, self.reference)
        row.figures["n"] = found.n

    def _model_features(self) -> Iterator[Tensor]:
        seeds = range(self.samples)
        with self.progress(f"{self.figure} of GSD", self.samples) as bar:
            for batch in generator_features(self.model.generator, self.extractor, seeds, self.options.batch_size):
                self.check()
                bar.advance(len(batch))
                yield batch

    def _baseline(self, sampler: Sampler) -> tuple[Statistics, str]:
        """Statistics of the teacher's samples, and where they come from."""
        shipped = self._shipped(sampler)
        if shipped is not None and shipped.n == self.samples:
            return shipped, "statistics shipped with the teacher"
        with self.progress(f"{self.figure} of {sampler.name}") as bar:

            def on_step(done: int, total: int) -> None:
                self.check()
                bar.update(done, total)

            found = sampled_statistics(
                self.teacher, sampler, self.extractor, self.samples, self.cache, self.device,
                self.options.batch_size, on_step,
            )  # fmt: skip
        return found, "made here, kept in the cache"

    def _geometry(self, row: Row, subject: Subject) -> None:
        shape, distance = self.model.generator.latent_shape, self.perceptual.squared_distance
        if "ppl" in self.wanted:
            found = self._path_length(row, subject, EPSILON)
            row.figures |= {"ppl": found.mean, "ppl_low": found.low, "ppl_high": found.high}
            row.figures |= {
                "ppl_untrimmed": found.untrimmed,
                "ppl_untrimmed_low": found.untrimmed_low,
                "ppl_untrimmed_high": found.untrimmed_high,
            }
            self.ppl_protocol = found.protocol
            row.protocol["ppl"] = f"{found.protocol}, {subject.images_protocol}"
            if subject.calls == 1:  # checks of the protocol, cheap where a picture is one call
                row.figures["ppl_1e-3"] = self._path_length(row, subject, COARSE_EPSILON).mean
                row.figures["ppl_noise_floor"] = noise_floor(subject.images, distance, shape) / EPSILON**2
        if "isometry" in self.wanted:
            row.figures |= self._isometry(row, subject)

    def _isometry(self, row: Row, subject: Subject) -> dict[str, float]:
        """The isometry report; a figure that is no number, of a collapsed generator, is absent."""
        shape = self.model.generator.latent_shape
        with self.progress(f"isometry of {row.name}") as bar:

            def on_batch(done: int, total: int) -> None:
                self.check()
                bar.update(done, total)

            found = geometry.geometry(
                subject.images, self.perceptual.embed, shape, seed=self.options.seed,
                batch_size=self.options.batch_size, on_batch=on_batch,
            )  # fmt: skip
        return {name: value for name, value in asdict(found).items() if math.isfinite(value)}

    def _path_length(self, row: Row, subject: Subject, epsilon: float) -> PathLength:
        pairs, shape = self.options.ppl_samples, self.model.generator.latent_shape
        with self.progress(f"PPL of {row.name}", pairs) as bar:

            def on_batch(done: int, _total: int) -> None:
                self.check()
                bar.update(done)

            return path_length(
                subject.images, self.perceptual.squared_distance, shape, pairs, epsilon, self.options.seed,
                self.options.batch_size, on_batch,
            )  # fmt: skip

    def _time(self, rows: dict[str, Row], subjects: dict[str, Subject]) -> None:
        batch, shape = self.options.time_batch, self.model.generator.latent_shape
        tasks = {name: timing_task(subject, batch, shape) for name, subject in subjects.items()}
        with self.progress("timing", REPEATS * len(tasks)) as bar:
            for task in tasks.values():
                task()  # warm-up
            timings = time_interleaved(tasks, batch, self.device, REPEATS, lambda done, _: bar.update(done))
        for name, timing in timings.items():
            rows[name].time = timing
