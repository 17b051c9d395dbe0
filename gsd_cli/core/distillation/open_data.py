"""Opens the images of a distillation: checks them against the teacher, or samples them from it."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.base.lock import one_at_a_time
from gsd_cli.base.session import Session
from gsd_cli.base.text import closest
from gsd_cli.catalogue.registry import TEACHER
from gsd_cli.core.distillation.inputs import SAMPLER, ImageChoice
from gsd_cli.core.distillation.real_images import RealImages, cautions, in_teacher_space, require_fit, require_readable
from gsd_cli.core.models.teacher import Teacher
from gsd_cli.core.sampling.teacher_samples import TeacherSamples
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.options import DistillOptions

EPOCH = 50_000
"""Images per epoch if there are no real images to count."""


class OpenData:
    """The data sets of `choice`, each opened once, when it is first used."""

    def __init__(self, choice: ImageChoice):
        self.choice = choice

    @cached_property
    def shown(self) -> ImageArchive | None:
        """The discriminator's images. Raises GsdError (exit 3) if they cannot be read."""
        return _open_archive(self.choice.shown)

    @cached_property
    def measured(self) -> ImageArchive | None:
        """The real images that distances are measured to."""
        return self.shown if self.choice.measured == self.choice.shown else _open_archive(self.choice.measured)

    def with_shown(self, path: Path) -> OpenData:
        """The same data with the discriminator's images from `path`; open files stay open."""
        other = OpenData(replace(self.choice, shown=path))
        if "measured" in self.__dict__:
            other.__dict__["measured"] = self.measured
        return other

    @property
    def epoch(self) -> int:
        """Images per pass over the data."""
        return EPOCH if self.measured is None else len(self.measured)


def add_teacher_samples(
    data: OpenData, options: DistillOptions, teacher: Teacher, device: Any, session: Session,
    *, main: bool = True,
) -> OpenData:  # fmt: skip
    """`data` with the teacher's own samples as the discriminator's images.

    They come from the cache; if they are missing there, the `main` process makes them. Raises GsdError (exit 8) if the
    cache cannot hold them, and Stopped after a signal; the same call then resumes.
    """
    samples = TeacherSamples(teacher, options.teacher_samples, options.seed, session.cache)
    if main and samples.damage() is not None:  # a complete cache may be read-only
        try:
            with one_at_a_time(samples.path, session.check):
                _make_samples(samples, device, options.batch_size, session)
        except GsdError as error:
            if error.code == ExitCode.STORAGE:
                error.hint = "choose another cache with --cache-dir"
            raise
    return data.with_shown(samples.path)


def _make_samples(samples: TeacherSamples, device: Any, batch_size: int, session: Session) -> None:
    """Make the samples, unless another process made them while this one waited for the lock."""
    cause = samples.damage()
    if cause is None:
        return
    if samples.path.exists():
        session.warn(f"{samples.path}: {cause}; the samples are made again")
    with session.progress(f"teacher samples ({SAMPLER})", samples.count) as bar:
        samples.make(device, batch_size, bar.update, session.check)


def open_real_images(data: OpenData, teacher: Teacher, device: Any, session: Session) -> RealImages | None:
    """The discriminator's images in the teacher's space, after each was read once; None if there are none.

    Raises GsdError (exit 3) if they cannot be read or do not fit the teacher.
    """
    images = data.shown
    if images is None:
        return None
    require_fit(images, teacher)
    with session.progress(f"reading {images.path.name}", len(images)) as bar:
        require_readable(images, bar.update)
    for caution in cautions(images, teacher):
        session.warn(caution)
    return in_teacher_space(images, teacher, device)


def _open_archive(path: Path | None) -> ImageArchive | None:
    if path is None:
        return None
    if not path.exists():
        near = closest(str(path), [TEACHER])
        raise GsdError(
            f"no such data set: {path}",
            hint=f"did you mean {near}?" if near else "make it with: gsd prepare SOURCE -o DATA.zip",
        )
    return ImageArchive(path)
