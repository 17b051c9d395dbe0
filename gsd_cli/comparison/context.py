"""What all metrics of one `gsd bench` share: the models, the features, the real images, and what was asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import torch
from torch import Tensor

from gsd_cli.base.errors import ExitCode, GsdError, UsageError
from gsd_cli.base.session import Session
from gsd_cli.catalogue.registry import TEACHERS, further_features
from gsd_cli.catalogue.run_layout import DATA_SUFFIX, GENERATOR, next_to_teacher
from gsd_cli.comparison.contenders import Contender, contenders, generator_subject, rival
from gsd_cli.compute.device import compile_network, image_precision, to_device
from gsd_cli.core.distillation.guidance import require_null_condition
from gsd_cli.core.export.onnx_generator import OnnxGenerator
from gsd_cli.core.export.open import open_onnx
from gsd_cli.core.models.generator import PROMPTS_KEPT, Generator, Model
from gsd_cli.core.models.prompts import Prompts, load_prompts
from gsd_cli.core.models.renderer import Renderer
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.core.sampling.refined import RefinedGenerator
from gsd_cli.core.sampling.samplers import Sampler
from gsd_cli.metrics.baselines import shipped_statistics
from gsd_cli.metrics.clip import ClipFeatures, clip_features
from gsd_cli.metrics.clip_text import clip_texts
from gsd_cli.metrics.features import (
    Extractor,
    TeacherFeatures,
    classifier_features,
    features_folder,
    inception_features,
    require_grey_or_rgb,
)
from gsd_cli.metrics.reference import Judge, fitted_extractor, is_data_set, reference_statistics
from gsd_cli.options import BenchOptions

DEFAULT_SAMPLES = 2000
GENERAL: dict[str, Callable[..., Extractor]] = {"inception": inception_features, "clip": clip_features}
"""Features for images of any kind; the others are fitted on a domain by `gsd prepare --fit-features`."""

NO_INCEPTION = "Inception is not in the cache and cannot be downloaded"


class Need(Enum):
    """What a metric needs before anything is measured."""

    FEATURES = "features of images, and statistics of the real images in them"
    REAL_FEATURES = "features of single real images"
    EVERY_FEATURES = "all feature sets of the model's domain, not the first alone"
    CAPTIONS = "CLIP's features of images, and of the prompts that they are made from"


@dataclass(frozen=True)
class Captions:
    """CLIP's measure of images, and its unit vectors [P, F] of the prompts, in their order."""

    images: ClipFeatures
    texts: Tensor


class Context:
    """What all metrics share.

    renderer: what makes the model's images: its generator, or the same one exported (`--backend`).

    name: what the model's row is called, by default as the user names the model; rivals: other generators by name,
    after those of `--compare`. The metrics read the public attributes. Two are written while measuring: missing, by
    contender the figures without images, and notes, what a reader of the figures must know.
    """

    def __init__(
        self, options: BenchOptions, needs: Set[Need], model: Model, device: torch.device, session: Session,
        name: str | None = None, rivals: Mapping[str, Model] | None = None,
    ):  # fmt: skip
        self.options, self.model, self.device, self.session = options, model, device, session
        self.missing: dict[str, list[str]] = {}
        self.notes: list[str] = []
        if model.teacher is None:
            raise GsdError(f"{model.folder} does not name its teacher", hint="gsd distill records it in gsd.json")
        revision = model.card.get("teacher_revision")
        self.teacher = load_teacher(
            model.teacher,
            offline=session.offline,
            revision=revision,
            assume=model.teacher_reading,
            prompts=options.prompts or model.prompts,
        )
        exported = None
        if options.backend == "onnx":  # before the networks are compiled
            exported = open_onnx(str(model.folder), "fp32", options.device, session, model)
        to_device(self.teacher.denoiser, device, training=False)
        to_device(model.generator, device, training=False)
        self.teacher.autoencoder.to(device)
        if options.compile:
            compile_network(self.teacher.denoiser.net)
            for network in model.generator.networks:
                compile_network(network.net)
        latent = self.teacher.autoencoder.net is not None
        precision = self.precision = image_precision(options.precision, device, latent=latent)
        if (scale := options.guidance or model.teacher_guidance) != 1:
            require_null_condition(self.teacher.denoiser)
            self.teacher = replace(self.teacher, denoiser=self.teacher.denoiser.with_guidance(scale))
        if options.refine is not None:
            refined = RefinedGenerator(model.generator, self.teacher.denoiser, options.refine)
            model = self.model = replace(model, generator=refined)
        self.baselines = contenders(options.compare, self.teacher, device, session.check, precision)
        self.baselines += [rival(label, other, device, precision) for label, other in (rivals or {}).items()]
        own = name or self._name_of_model()
        self.ours = Contender(generator_subject(own, model.generator, device, precision, exported), model.generator)
        self.renderer: Renderer = exported or model.generator
        self._require_one_space()
        self.prompts = self._share_prompts(exported)
        self.extractor, self.perceptual = self._extractors(needs)
        self.captions = self._caption() if Need.CAPTIONS in needs else None
        self.judges = self._judges(needs)
        self.samples = options.num_samples or self._baseline_size()
        self.real_figures: dict[str, float] = {}
        self.real_name = ""

    @property
    def contenders(self) -> list[Contender]:
        """Baselines first, the model last, as the paper prints them."""
        return [*self.baselines, self.ours]

    @property
    def figure(self) -> str:
        """What the first Frechet distance is called."""
        return self.extractor.figure

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """The shape [C, H, W] of all contenders' latents."""
        return self.model.generator.latent_shape

    @property
    def distance_protocol(self) -> str:
        """What the perceptual distance is, for protocols."""
        return f"distance: channel-normalised {self.perceptual.name} maps"

    def _name_of_model(self) -> str:
        """The run's folder or the bundled name, with --refine K followed by +K; where a baseline has the same name, it
        says which one it is."""
        path = Path(self.model.name)
        name = str(path.parent) if path.name == GENERATOR and path.parent.name else self.model.name
        if self.options.refine is not None:
            name += f"+{self.options.refine}"
        return f"{name} (the model)" if name in {baseline.name for baseline in self.baselines} else name

    def _require_one_space(self) -> None:
        shape = self.model.generator.latent_shape
        for contender in self.baselines:
            if isinstance(contender.model, Generator) and contender.model.latent_shape != shape:
                raise GsdError(f"{contender.name} has latents of {contender.model.latent_shape}, the model of {shape}")

    def _share_prompts(self, exported: OnnxGenerator | None) -> Prompts | None:
        """Give all contenders the prompts of --prompts, else those that the model keeps; None for other models.

        Generators keep those of their own training, which could not be compared. Raises GsdError (exit 3) for prompts
        of another teacher.
        """
        path = self.options.prompts or self.model.prompts
        if path is None:
            return None
        found = load_prompts(path)
        if self.options.prompts is None and len(found.texts) >= PROMPTS_KEPT:
            self.session.warn(
                f"images are made from the {len(found.texts)} prompts that {self.model.name} keeps, which may be few "
                "of those that it was trained on; --prompts FILE gives others"
            )
        for model in (contender.model for contender in self.contenders):
            if not isinstance(model, Generator):
                continue
            denoiser = model.denoiser
            if model is self.model.generator or denoiser.kind.text_sizes(denoiser.net) is not None:
                denoiser.give_prompts(found.condition)
                model.condition = denoiser.conditions.first(1)
        if exported is not None:
            exported.give_prompts(found.condition)
        return found

    def _caption(self) -> Captions:
        """What the CLIP score compares. Raises GsdError: exit 2 for a model without prompts, exit 4 without CLIP."""
        if self.prompts is None:
            raise UsageError(
                [f"clip-score: {self.model.name} is not text-conditional, or keeps no prompts"],
                hint="leave clip-score out of --metrics, or give --prompts FILE",
            )
        require_grey_or_rgb(self.teacher.image_shape[0], "CLIP")
        cache, offline, images = self.session.cache, self.session.offline, self.extractor
        with self.session.progress("CLIP's features of prompts"):
            texts = clip_texts(cache, self.device, offline=offline).embed(self.prompts.texts)
        if not isinstance(images, ClipFeatures):
            images = clip_features(cache, self.device, offline=offline)
        return Captions(images, texts)

    def _extractors(self, needs: Set[Need]) -> tuple[Extractor, Extractor]:
        """Features of the Frechet distance, and of the perceptual distance of path lengths."""
        spec = self.domain_features
        if spec is not None:
            extractor = classifier_features(spec, self.device, self.teacher.image_shape)
            return extractor, extractor
        perceptual = TeacherFeatures(self.teacher.denoiser, self.teacher.autoencoder)
        if Need.FEATURES not in needs:
            return perceptual, perceptual
        name = self.options.features or self.model.features or "inception"
        try:
            require_grey_or_rgb(self.teacher.image_shape[0], name.capitalize())
            return GENERAL[name](self.session.cache, self.device, offline=self.session.offline), perceptual
        except GsdError as error:
            other_channels = self.teacher.image_shape[0] not in (1, 3)
            if self.options.features is not None or not (error.code == ExitCode.NETWORK or other_channels):
                raise
            stand_in = self._stand_in(perceptual, "Inception takes grey or RGB" if other_channels else NO_INCEPTION)
            if stand_in is None:
                raise
            return stand_in, perceptual

    def _stand_in(self, own: TeacherFeatures, cause: str) -> Extractor | None:
        """Features for a distance where Inception cannot be used: fitted on the real images, else the teacher's own.

        None where the real images themselves are not there, because their statistics in other features need them.
        """
        data = self.real_images
        if data is None:
            return None
        fitted = fitted_extractor(data, self.device, self.teacher.image_shape)
        found: Extractor = own if fitted is None else fitted
        own_ones = "the teacher's own features, which are not independent of the generator"
        where = own_ones if fitted is None else f"the features {found.name}, fitted on such images"
        self.session.say(f"{cause}: {found.figure} is measured instead of FID, in {where}")
        return found

    @property
    def real_images(self) -> Path | None:
        """The data set that is compared with: --stats if it is one, else the one next to the model's teacher."""
        if self.options.stats is not None:
            return Path(self.options.stats) if is_data_set(Path(self.options.stats)) else None
        return next_to_teacher(self.model.teacher, DATA_SUFFIX) if self.model.teacher else None

    def _baseline_size(self) -> int:
        """As many samples as the shipped baseline has: distances compare at equal N."""
        samplers = [c.model for c in self.baselines if isinstance(c.model, Sampler)]
        shipped = [shipped_statistics(self.teacher, sampler, self.extractor.name) for sampler in samplers]
        return min((s.n for s in shipped if s is not None), default=DEFAULT_SAMPLES)

    def _judges(self, needs: Set[Need]) -> list[Judge]:
        """The extractors that judge the images. The first one decides; with EVERY_FEATURES the domain's others follow,
        unless one is named or the real statistics are of one extractor."""
        options = self.options
        if Need.FEATURES not in needs:
            return []
        judges = [self._judge(self.extractor)]
        if judges[0].real.features is None and Need.REAL_FEATURES in needs:
            raise GsdError(
                f"{judges[0].real.name} holds no features of real images, which KID, precision and recall need",
                hint="make it again: gsd prepare DATA writes them next to the statistics",
            )
        any_extractor = options.stats is None or is_data_set(Path(options.stats))
        if Need.EVERY_FEATURES in needs and options.features is None and any_extractor:
            shape = self.teacher.image_shape
            for name in further_features(self.model.features):
                judges.append(self._judge(classifier_features(name, self.device, shape), name))
        return judges

    def _judge(self, extractor: Extractor, spec: str | None = None) -> Judge:
        """The extractor with the real images in its features. spec: its feature set, unless that is the model's."""
        options, session = self.options, self.session
        spec = spec or self.domain_features
        stats = options.stats
        if stats is None and extractor.figure == "FID":
            known = TEACHERS.get(str(self.model.teacher))
            stats = known.statistics if known else None
        stats = stats or self.own_reference(spec)
        with session.progress("real images") as bar:
            real = reference_statistics(
                stats, features_folder(spec) if spec else None, extractor, session.cache, self.device,
                options.batch_size, shape=self.teacher.image_shape if spec else None, offline=session.offline,
                on_image=bar.update,
            )  # fmt: skip
        return Judge(extractor, real)

    def own_reference(self, spec: str | None) -> str | None:
        """What --stats says, else the images next to the model's teacher, unless features have their own statistics."""
        if self.options.stats is not None or spec is not None or self.real_images is None:
            return self.options.stats
        return str(self.real_images)

    @property
    def domain_features(self) -> str | None:
        """The feature set of a domain that was asked for or that the model names; None for a general one."""
        spec = self.options.features or self.model.features
        return None if spec in GENERAL else spec
