"""The models of a bench: a generator or a baseline, measured in the same way, and its row of figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gsd_cli.compute.device import autocast, full_precision, to_device
from gsd_cli.core.models.generator import Generator, Model, load_model
from gsd_cli.core.models.renderer import Renderer
from gsd_cli.core.models.teacher import Teacher
from gsd_cli.core.sampling.images import conditions_for, sample_teacher
from gsd_cli.core.sampling.samplers import Sampler, parse_sampler
from gsd_cli.metrics.speed import Timing
from gsd_cli.options.bench import is_folder, split

PPL_STEPS = 50
"""Steps of the deterministic sampler (`ddim`) that the PPL of a sampler with noise is measured through."""


@dataclass
class Row:
    """The figures of one model; a figure that was not asked for or is not possible is absent."""

    name: str
    calls: int
    parameters: int
    figures: dict[str, float] = field(default_factory=dict)
    distances: dict[str, dict[str, float]] = field(default_factory=dict)
    """The figures of each Frechet distance, by its name; those of the first judge are among `figures` too."""
    time: Timing | None = None
    edits: dict[str, dict[str, float]] = field(default_factory=dict)
    protocol: dict[str, str] = field(default_factory=dict)
    samples: int | None = None
    """Images that the figures of image quality are measured on."""
    judge: str = ""
    """The features of image quality, of the first judge."""
    perceptual: str = ""
    """The features of path lengths and of the isometry."""


@dataclass(frozen=True)
class Subject:
    """A model as the measures see it: two maps from latents [B, C, H, W] to images.

    sample: the model as it is used (for a multi-step one its sampler); images: a deterministic
    map for path lengths.
    """

    name: str
    calls: int
    parameters: int
    sample: Callable[[Tensor, range], Tensor]
    images: Callable[[Tensor], Tensor]
    images_protocol: str
    images_calls: int = 1
    """Network calls per image of `images`."""


@dataclass(frozen=True)
class Contender:
    """A model of the bench: how it is measured, and the model itself."""

    subject: Subject
    model: Sampler | Generator

    @property
    def name(self) -> str:
        """Its row's name."""
        return self.subject.name


def generator_subject(
    name: str, generator: Generator, device: torch.device, precision: str = "fp32", exported: Renderer | None = None
) -> Subject:  # fmt: skip
    """A generator: both maps are its call, or its few calls; `sample` uses the precision of samples.

    exported: the same generator run by something else than torch, which makes the samples.
    """

    @torch.no_grad()
    def images(z: Tensor) -> Tensor:
        with full_precision(device):
            return generator(z.to(device)).float()

    @torch.no_grad()
    def sample(z: Tensor, seeds: range) -> Tensor:
        if exported is not None:
            return exported(z.cpu(), conditions_for(exported, seeds)).float()
        with autocast(device, precision):
            return generator(z.to(device), conditions_for(generator, seeds)).float()

    parameters = sum(p.numel() for p in generator.parameters())
    calls = generator.calls
    protocol = "one call" if calls == 1 else f"{calls} calls"
    return Subject(name, calls, parameters, sample, images, protocol, calls)


def baseline_subject(
    sampler: Sampler, teacher: Teacher, device: torch.device, check: Callable[[], None], precision: str = "fp32"
) -> Subject:
    """The teacher under a sampler; `check` is called between steps and may raise to stop.

    The deterministic map of a conditional teacher uses its first condition (class 0), as the generator's does.
    """
    denoiser = teacher.denoiser
    parameters = sum(p.numel() for p in denoiser.parameters())

    def sample(z: Tensor, seeds: range) -> Tensor:
        with autocast(device, precision):
            return sample_teacher(teacher, sampler, z.to(device), seeds, lambda *_: check())

    smooth = sampler if sampler.deterministic else parse_sampler(f"ddim-{min(PPL_STEPS, denoiser.schedule.steps)}")

    @torch.no_grad()
    def deterministic(z: Tensor) -> Tensor:
        model = denoiser.with_condition(denoiser.conditions.first(len(z)).to(device))
        with full_precision(device):
            # never clipped: a clamp would flatten the path
            found = smooth(model, z.to(device), range(len(z)), lambda *_: check(), clip=False)
            return teacher.autoencoder.decode(found)

    calls = smooth.calls(denoiser)
    protocol = f"{smooth.name_on(denoiser)}, deterministic" if calls > 1 else "one call"
    return Subject(
        sampler.name_on(denoiser), sampler.calls(denoiser), parameters, sample, deterministic, protocol, calls
    )


def rival(name: str, model: Model, device: torch.device, precision: str = "fp32") -> Contender:
    """Another generator, ready to be measured."""
    generator = to_device(model.generator, device, training=False).eval().requires_grad_(False)
    return Contender(generator_subject(name, generator, device, precision), generator)


def contenders(
    names: str, teacher: Teacher, device: torch.device, check: Callable[[], None], precision: str = "fp32"
) -> list[Contender]:
    """The models that `--compare` names, comma-separated: samplers of the teacher, or other generators by folder."""
    found: list[Contender] = []
    for name in split(names):
        if is_folder(name):
            found.append(rival(name, load_model(name), device, precision))
        else:
            sampler = parse_sampler(name).fit(teacher.denoiser, device)
            found.append(Contender(baseline_subject(sampler, teacher, device, check, precision), sampler))
    return found
