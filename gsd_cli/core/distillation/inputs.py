"""Which images a distillation is given: real ones or the teacher's own samples, and what each is for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gsd_cli.base.console import Console
from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.base.signals import StopRequest
from gsd_cli.base.storage import ASSETS, cache_dir
from gsd_cli.base.text import closest
from gsd_cli.catalogue.registry import SAMPLES_BY, TEACHER, TEACHERS
from gsd_cli.options import DistillOptions

if TYPE_CHECKING:
    from gsd_cli.core.distillation.real_images import RealImages
    from gsd_cli.core.models.teacher import Teacher
    from gsd_cli.core.sampling.teacher_samples import TeacherSamples
    from gsd_cli.data.dataset import ImageArchive

Origin = Literal["given", "prepared", "bundled", "teacher", "none"]
SAMPLER = SAMPLES_BY.replace("dpm++", "DPM-Solver++")
EPOCH = 50_000
"""Images of an epoch where no real ones are measured against."""
FITTED = ("borders", "cells")
"""Isometric forms that are fitted to images."""


@dataclass(frozen=True)
class DistillData:
    """The images of a distillation.

    origin: where the discriminator's images come from. shown: their data set; None for `none`, and for `teacher`
    until its samples are made. measured: the real images that distances, epochs and standard deviations are of;
    None where there are none but the bundled ones, which are a part of what the bundled statistics are of.
    """

    origin: Origin
    shown: Path | None
    measured: Path | None

    @cached_property
    def shown_images(self) -> ImageArchive | None:
        """The discriminator's images. Raises GsdError (exit 3) where they cannot be read."""
        return _open(self.shown)

    @cached_property
    def measured_images(self) -> ImageArchive | None:
        """The images that are measured against."""
        return self.shown_images if self.measured == self.shown else _open(self.measured)

    @property
    def epoch(self) -> int:
        """Images of a pass over the data."""
        return EPOCH if self.measured_images is None else len(self.measured_images)


def choose_data(options: DistillOptions) -> DistillData:
    """--data; else what `gsd prepare` left next to a teacher it fitted; else what is bundled with the teacher."""
    prepared = next_to_teacher(options.teacher, ".zip")
    if options.data == TEACHER:
        return DistillData("teacher", None, prepared)
    if options.data is not None:
        given = Path(options.data)
        return DistillData("given", given, given)
    if prepared is not None:
        return DistillData("prepared", prepared, prepared)
    entry = TEACHERS.get(options.teacher)
    if entry is not None and entry.data is not None:
        return DistillData("bundled", ASSETS / entry.data, None)
    return DistillData("none", None, None)


def next_to_teacher(teacher: str, suffix: str) -> Path | None:
    """What `gsd prepare` left next to a teacher that it fitted: NAME.zip or NAME-features of NAME-teacher."""
    folder = Path(teacher).resolve()
    if not folder.is_dir() or not folder.name.endswith("-teacher"):
        return None
    found = folder.with_name(folder.name.removesuffix("-teacher") + suffix)
    return found if found.exists() else None


def uses_images(options: DistillOptions) -> bool:
    """Whether real images are looked at: by a discriminator, for their mean features, or by an isometric form that
    takes their clusters."""
    fitted = options.irl in FITTED and options.irl_weight != 0
    return fitted or any(ratios(options, choose_data(options)).values())


def ratios(options: DistillOptions, data: DistillData) -> dict[str, float]:
    """What `--adversarial` and `--feature-matching` come to with these real images."""
    return options.ratios(real=data.origin != "none")


def describe(data: DistillData, *, shown: bool = True, count: int | None = None) -> str:
    """One line: the real images that a distillation uses. shown: whether it has a discriminator that sees them;
    count: how many there are, where it is known."""
    number = "" if count is None else f"{count:,} "
    if data.origin == "none":
        return "real images: none (data-free distillation)"
    if not shown:
        return "real images: none used, for there is no discriminator (data-free distillation)"
    if data.origin == "teacher":
        return f"real images: none; the teacher's own {number}samples stand in ({SAMPLER}, cached)"
    if data.origin == "bundled":
        return f"real images: {number}bundled training images ({Path(data.shown or '').stem})"
    where = "from --data" if data.origin == "given" else "next to the teacher"
    return f"real images: {number}{where}, {data.shown}"


def with_samples(
    data: DistillData, options: DistillOptions, teacher: Teacher, device: Any, console: Console, stop: StopRequest,
    *, main: bool = True,
) -> DistillData:  # fmt: skip
    """`data` with the teacher's own samples shown: those in the cache, else made now by the `main` process.

    Raises GsdError (exit 8) where the cache cannot hold them, and Stopped; the same call resumes.
    """
    from gsd_cli.base.lock import one_at_a_time
    from gsd_cli.core.sampling.teacher_samples import TeacherSamples

    samples = TeacherSamples(teacher, options.teacher_samples, options.seed, cache_dir(options.cache_dir))
    if main and samples.damage() is not None:  # a cache that is whole may be read-only
        try:
            with one_at_a_time(samples.path, stop.check):
                _make(samples, device, options.batch_size, console, stop)
        except GsdError as error:
            if error.code == ExitCode.STORAGE:
                error.hint = "choose another cache with --cache-dir"
            raise
    return replace(data, shown=samples.path)


def _make(samples: TeacherSamples, device: Any, batch_size: int, console: Console, stop: StopRequest) -> None:
    """Make the samples, unless another process made them while this one waited."""
    cause = samples.damage()
    if cause is None:
        return
    if samples.path.exists():
        console.warn(f"{samples.path}: {cause}; the samples are made again")
    with console.progress(f"teacher samples ({SAMPLER})", samples.count) as bar:
        samples.make(device, batch_size, bar.update, stop.check)


def open_images(
    data: DistillData, teacher: Teacher, device: Any, console: Console, stop: StopRequest
) -> RealImages | None:
    """The discriminator's images in the teacher's space, all looked at; None where there are none.

    Raises GsdError (exit 3) where they cannot be read or do not fit the teacher.
    """
    from gsd_cli.core.distillation.real_images import cautions, in_teacher_space, require_fit, require_readable

    images = data.shown_images
    if images is None:
        return None
    require_fit(images, teacher)
    with console.progress(f"reading {images.path.name}", len(images)) as bar:

        def on_image(done: int) -> None:
            stop.check()
            bar.update(done)

        require_readable(images, on_image)
    for caution in cautions(images, teacher):
        console.warn(caution)
    return in_teacher_space(images, teacher, device)


def _open(path: Path | None) -> ImageArchive | None:
    if path is None:
        return None
    from gsd_cli.data.dataset import ImageArchive

    if not path.exists():
        near = closest(str(path), [TEACHER])
        raise GsdError(
            f"no such data set: {path}",
            hint=f"did you mean {near}?" if near else "make it with: gsd prepare SOURCE -o DATA.zip",
        )
    return ImageArchive(path)
