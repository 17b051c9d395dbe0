"""What `gsd distill --dry-run` says: what a run would write, need and take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gsd_cli.base.errors import GsdError
from gsd_cli.catalogue.cost import growth
from gsd_cli.core.distillation.inputs import SAMPLER, choose_data, describe, ratios, uses_images
from gsd_cli.core.distillation.run_folder import run_folder, total_steps
from gsd_cli.options import DistillOptions

if TYPE_CHECKING:
    from gsd_cli.core.distillation.cost import Estimate


def plan(options: DistillOptions) -> Iterator[str]:
    """What a run would write, line by line: the last ones take seconds to find out."""
    if options.list_teachers:
        yield "lists the teachers known by name"
        return
    data = choose_data(options)
    steps = total_steps(options, data)
    options = options.model_copy(update=ratios(options, data))
    yield f"{options.teacher}: {_length(options, steps)}"
    yield f"writes {run_folder(options)}/: generator/ best/ samples/ metrics.jsonl curves.png options.json checkpoints/"
    yield describe(data, shown=uses_images(options))
    if data.origin == "teacher":
        yield f"makes {options.teacher_samples:,} teacher samples ({SAMPLER}) if they are used and not in the cache"
    # torch is loaded from here on, after what is known without it
    from gsd_cli.catalogue.cost import distillation
    from gsd_cli.core.distillation.cost import generator_passes, passes

    if steps is None:
        yield _measured(_tried(options), options, None)
        return
    images = steps * options.batch_size
    # the exact size of a larger student needs the teacher's config
    tried, times = None, growth(options.student_width, options.student_depth)
    if times > 1:
        tried = _tried(options)
        times = times if isinstance(tried, GsdError) else tried.student_parameters / tried.parameters
    yield from distillation(options.teacher, passes(options) * images, generator_passes(options) * images, times)
    yield _measured(tried or _tried(options), options, steps)


def _length(options: DistillOptions, steps: int | None) -> str:
    """The length of the run in words."""
    if steps is None:
        return f"as many steps of batch {options.batch_size} as fit into {options.minutes:g} minutes"
    images, until = steps * options.batch_size, f", {options.minutes:g} minutes of them now" if options.minutes else ""
    return f"{steps:,} steps of batch {options.batch_size} = {images:,} images{until}"


def _tried(options: DistillOptions) -> Estimate | GsdError:
    """What a run needs, or why that is not known: a dry run downloads no teacher."""
    from gsd_cli.compute.device import resolve_device
    from gsd_cli.core.distillation.cost import estimate
    from gsd_cli.core.models.teacher import load_teacher

    try:
        teacher = load_teacher(options.teacher, offline=True, revision=options.revision)
    except GsdError as error:
        return error
    return estimate(teacher.denoiser, options, resolve_device(options.device))


def _measured(found: Estimate | GsdError, options: DistillOptions, steps: int | None) -> str:
    """Activations and time in words; the steps that fit, where the run has minutes and no other length."""
    from gsd_cli.base.text import format_bytes
    from gsd_cli.compute.device import resolve_device

    if isinstance(found, GsdError):
        return f"activations and time: not known until the teacher is downloaded ({found})"
    kept, device = format_bytes(found.activation_bytes), resolve_device(options.device)
    if steps is None:
        count = 60 * (options.minutes or 0) / found.seconds_per_step
        return f"{kept} of activations in float32; at most {count:,.0f} steps on {device} (one call was tried)"
    minutes = found.seconds_per_step * steps / 60
    time = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} hours"
    return f"{kept} of activations in float32; about {time} on {device}, evaluations aside (one call was tried)"
