"""Decides how a teacher's output is read where its folder does not say it, and checks what a folder says."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.base.session import Session
from gsd_cli.catalogue.bare_files import is_bare, named_values, with_size
from gsd_cli.catalogue.find import local_teacher
from gsd_cli.catalogue.readings import Reading, fitting_readings, same_schedule
from gsd_cli.compute.distributed import World
from gsd_cli.core.distillation.open_data import OpenData
from gsd_cli.core.distillation.real_images import require_same_shape
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.reading_check import CLEAR, Measured, count_levels, join_measured, measure_readings
from gsd_cli.core.models.teacher import Teacher
from gsd_cli.data.dataset import ImageArchive

TRIED_ON, CHECKED_ON = 32, 8
"""Real images on which readings are tried, and on which the reading that a folder names is checked."""


def settle_reading(
    teacher: Teacher, data: OpenData, device: torch.device, session: Session, world: World | None = None
) -> Teacher:
    """The teacher under the reading that denoises the real images best, if its folder leaves several open.

    Raises GsdError (exit 3) without real images, or if no reading denoises them. The reading that a folder names is
    kept; a warning says if real images from --data contradict it.
    """
    config = teacher.config
    if config is None:
        return teacher
    if len(config.readings) > 1 and data.choice.origin in ("none", "teacher"):
        config.require_known()
    if len(config.readings) == 1:
        if data.choice.origin == "given" and data.shown is not None and teacher.reading is None:
            _check_stated(teacher, data.shown, device, session)
        return teacher
    images = data.shown or data.measured
    assert images is not None
    found = _measure(teacher, config.readings, images, TRIED_ON, device, session)
    best, error = found.best
    if not found.fits:
        raise GsdError(
            f"no known reading of {teacher.name} denoises the images of {images.path}: the best is {best.name}, with "
            f"an error of {error:.3g} (a network without effect has {found.idle:.3g})",
            hint="give images like those that the teacher was trained on, or say how it was trained with --assume",
        )
    world = world or World()
    place = torch.tensor(config.readings.index(best))
    chosen = config.readings[int(world.from_main(place))]  # rounding may differ between machines
    other, next_error = found.errors[1]
    session.say(
        f"{config.files.folder} does not say how its network was trained; on {min(TRIED_ON, len(images))} real images "
        f"it denoises best read as {chosen.name}: error {error:.3g}, next {other.name} with {next_error:.3g}"
    )
    return teacher.read_as(chosen)


def add_size(teacher: str, assume: str | None, data: OpenData) -> str | None:
    """`assume` with the side of the images in --data, for a teacher in a file that does not say it."""
    place = local_teacher(teacher)
    if place is None or not is_bare(place) or data.choice.origin != "given" or data.shown is None:
        return assume
    return with_size(assume, data.shown.shape[-1])


def _check_stated(teacher: Teacher, images: ImageArchive, device: torch.device, session: Session) -> None:
    """Warn if the output, read as the folder says, denoises real images clearly worse than read in another way."""
    if images.shape != teacher.image_shape or teacher.config is None:
        return  # refused when the images are opened
    stated = teacher.config.readings[0]
    others = _measure(teacher, same_schedule(stated), images, CHECKED_ON, device, session)
    error = next(value for reading, value in others.errors if reading.prediction == stated.prediction)
    if others.fits and error < CLEAR * others.best[1] and error < CLEAR * others.idle:
        return
    # the schedule may be the wrong one: only now are all of them worth their calls
    found = _measure(teacher, (stated, *_other_readings(stated)), images, CHECKED_ON, device, session)
    best, smallest = found.best
    error = next(value for reading, value in found.errors if reading is stated)
    if found.fits and error > CLEAR * smallest:
        session.warn(
            f"{teacher.name}: its folder says {stated.name}, but its network denoises the real images better read as "
            f"{best.name} (error {smallest:.3g} instead of {error:.3g}); is its scheduler_config.json the right one?"
        )


def _other_readings(stated: Reading) -> tuple[Reading, ...]:
    return tuple(one for one in fitting_readings({}) if one.name != stated.name)


def _measure(
    teacher: Teacher, readings: tuple[Reading, ...], archive: ImageArchive, count: int, device: torch.device,
    session: Session,
) -> Measured:  # fmt: skip
    require_same_shape(archive, teacher.image_shape)
    places = torch.linspace(0, len(archive) - 1, min(count, len(archive))).round().long()
    stage = teacher.autoencoder.to(device)
    with torch.no_grad():
        images = stage.encode(archive.batch(places).to(device))
    condition, found, done = _condition(teacher, archive, places, device), [], 0
    groups = _by_network(readings)
    with session.progress("how the teacher was trained", sum(map(count_levels, groups))) as bar:
        for group in groups:
            # what a file of bare weights leaves open may decide on the network's layers
            model = (teacher.read_as(group[0]) if len(groups) > 1 else teacher).denoiser.to(device)
            report = _offset(bar.update, done)
            found.append(measure_readings(model, group, images, condition, on_call=report))
            done += count_levels(group)
    return join_measured(found)


def _by_network(readings: tuple[Reading, ...]) -> list[tuple[Reading, ...]]:
    groups: dict[str, list[Reading]] = {}
    for reading in readings:
        groups.setdefault(str(named_values(reading.name)), []).append(reading)
    return [tuple(group) for group in groups.values()]


def _offset(report: Callable[[int], object], done: int) -> Callable[[int], None]:
    def on_call(more: int) -> None:
        report(done + more)

    return on_call


def _condition(teacher: Teacher, archive: ImageArchive, places: Tensor, device: torch.device) -> Condition:
    """The classes of the images for a class-conditional teacher; the first class or prompt where they have none."""
    classes = teacher.denoiser.classes
    if not classes:
        return teacher.denoiser.conditions.first(len(places)).to(device)
    known = archive.labels
    fit = known is not None and known.ndim == 1 and int(known.max()) < classes
    found = known[places] if known is not None and fit else torch.zeros(len(places), dtype=torch.long)
    return Condition(found.to(device))
