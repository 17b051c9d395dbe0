"""What is said and refused before torch is loaded: the plan of each subcommand, and mistakes that are cheap to find."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gsd_cli.base.atomic import require_writable
from gsd_cli.base.console import Result
from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import require_room
from gsd_cli.base.text import format_bytes, plural
from gsd_cli.catalogue import cost
from gsd_cli.catalogue.find import find_model, require_teacher
from gsd_cli.catalogue.run_layout import FEATURES_SUFFIXES, TEACHER_SUFFIX, next_to_data

if TYPE_CHECKING:
    from gsd_cli.core.distillation.cost import Estimate
    from gsd_cli.options import (
        BenchOptions,
        DistillOptions,
        EditOptions,
        InterpolateOptions,
        PrepareOptions,
        SampleOptions,
    )


# -- prepare ------------------------------------------------------------------------------------


def check_prepare(options: PrepareOptions) -> None:
    """Refuse options that contradict each other and a target that cannot be written."""
    from gsd_cli.options.prepare import require_fit, target_file

    require_fit(options)
    require_writable(target_file(options), folder=False)


def plan_prepare(options: PrepareOptions) -> Iterator[str]:
    """What a run would write."""
    from gsd_cli.options.prepare import fit_settings, require_fit, target_file

    require_fit(options)
    target = target_file(options)
    yield f"writes {target} unless it is there"
    if options.shards:
        yield f"and {options.shards} shards: {target.stem}-000000.tar ..."
    if options.fit_features:
        features = next_to_data(target, FEATURES_SUFFIXES[options.features_net])
        yield f"trains {options.features_net} features: {features}/"
    if options.fit_teacher:
        steps = fit_settings(options).steps
        yield f"trains a {options.fit_teacher} teacher for {steps} steps: {next_to_data(target, TEACHER_SUFFIX)}/"


# -- distill ------------------------------------------------------------------------------------


def check_distill(options: DistillOptions) -> None:
    """Refuse an unknown teacher, a run folder that cannot be written, and one that was started with other options."""
    from gsd_cli.core.distillation.run_folder import check_options, run_folder, total_steps

    require_teacher(options.teacher)
    if options.list_teachers:
        return
    folder = run_folder(options)
    require_writable(folder, folder=True)
    needed = cost.disk_needed(options.teacher, cost.growth(options.student_width, options.student_depth))
    if not folder.exists() and needed is not None:
        require_room(folder, needed)
    if options.epochs is None:
        check_options(options, folder, total_steps(options, None))


def plan_distill(options: DistillOptions) -> Iterator[str]:
    """What a run would write, need and take. The last lines take seconds to find out: they load torch."""
    from gsd_cli.core.distillation.inputs import SAMPLER, choose_data, describe, ratios, uses_images
    from gsd_cli.core.distillation.run_folder import run_folder, total_steps

    if options.list_teachers:
        yield "lists the teachers known by name"
        return
    data = choose_data(options)
    steps = total_steps(options, _epoch(options))
    options = options.model_copy(update=ratios(options, data))
    yield f"{options.teacher}: {_length(options, steps)}"
    yield f"writes {run_folder(options)}/: generator/ best/ samples/ metrics.jsonl curves.png options.json checkpoints/"
    yield describe(data, shown=uses_images(options))
    if data.origin == "teacher":
        yield f"makes {options.teacher_samples:,} teacher samples ({SAMPLER}) if they are used and not in the cache"
    from gsd_cli.core.distillation.cost import generator_passes, passes

    if steps is None:
        yield _measured(_tried(options), options, None)
        return
    images = steps * options.batch_size
    # the exact size of a larger student needs the teacher's config
    tried, times = None, cost.growth(options.student_width, options.student_depth)
    if times > 1:
        tried = _tried(options)
        times = times if isinstance(tried, GsdError) else tried.student_parameters / tried.parameters
    yield from cost.distillation(options.teacher, passes(options) * images, generator_passes(options) * images, times)
    yield _measured(tried or _tried(options), options, steps)


def list_teachers() -> Result:
    """The teachers known by name: what they are, where they come from, whether they are on this machine."""
    from dataclasses import asdict

    from gsd_cli.base.table import Table
    from gsd_cli.catalogue.registry import TEACHERS
    from gsd_cli.core.models.hub import is_cached

    rows, facts = [], {}
    for name, entry in TEACHERS.items():
        here = "bundled" if entry.hub is None else "cached" if is_cached(entry.hub) else "no"
        source = entry.hub or "this package"
        millions = f"{entry.parameters / 1e6:.1f} M"
        rows.append([name, f"{entry.size} x {entry.size}", millions, entry.licence, source, here])
        facts[name] = {**asdict(entry), "at_hand": here}
    notes = [f"{name}: {entry.caution}" for name, entry in TEACHERS.items() if entry.caution]
    notes.append("Any other: --teacher FOLDER or --teacher OWNER/NAME, a DDPM in diffusers format.")
    columns = ["teacher", "images", "parameters", "licence", "source", "on this machine"]
    return Result(list(TEACHERS), {"teachers": facts}, Table("Teachers", columns, rows, notes))


def _epoch(options: DistillOptions) -> int | None:
    """Images per epoch, counted only where the length of the run is given in epochs."""
    if options.epochs is None:
        return None
    from gsd_cli.core.distillation.inputs import choose_data
    from gsd_cli.core.distillation.open_data import OpenData

    return OpenData(choose_data(options)).epoch


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


# -- sample, interpolate, edit, bench -----------------------------------------------------------


def check_sample(options: SampleOptions) -> None:
    """Refuse an unknown model, a format that contradicts the output, and an output that cannot be written."""
    from gsd_cli.options.sample import written_format

    find_model(options.model)
    format_ = written_format(options)
    if options.output != "-":
        require_writable(Path(options.output), folder=format_ == "folder")


def plan_sample(options: SampleOptions) -> Iterator[str]:
    """What a run would write."""
    from gsd_cli.options.sample import seeds_of, written_format

    where = "stdout" if options.output == "-" else options.output
    format_ = written_format(options)
    what = "a grid" if options.grid else format_
    yield f"{cost.describe_images(options.model, len(seeds_of(options)))} as {what} to {where}"


def check_interpolate(options: InterpolateOptions) -> None:
    """Refuse an unknown model and an output that cannot be written."""
    find_model(options.model)
    _require_film(options.output)


def plan_interpolate(options: InterpolateOptions) -> Iterator[str]:
    """What a run would write."""
    legs = len(options.images) - 1 + options.loop
    frames = legs * (options.frames - 1) + (not options.loop)
    yield f"{2 * frames - 2 if options.pingpong else frames} frames to {options.output}"


def check_edit(options: EditOptions) -> None:
    """Refuse an unknown model, a bad range of strengths, and an output that cannot be written."""
    from gsd_cli.options.edit import strengths

    find_model(options.model)
    strengths(options)
    if not options.list:
        _require_film(options.output)


def plan_edit(options: EditOptions) -> Iterator[str]:
    """What a run would write."""
    from gsd_cli.options.edit import direction_name, strengths

    if options.list:
        yield "lists what can be edited"
        return
    yield f"{plural(len(strengths(options)), 'image')} along {direction_name(options)} to {options.output}"


def check_bench(options: BenchOptions) -> None:
    """Refuse an unknown model and a report folder that cannot be written."""
    find_model(options.model)
    if options.report is not None:
        require_writable(options.report, folder=True)


def plan_bench(options: BenchOptions) -> Iterator[str]:
    """What a run would measure."""
    report = f"; writes {options.report}/" if options.report else ""
    yield f"measures {options.metrics} of the model and of {options.compare}{report}"
    if options.ablate:
        yield f"distils three variants at --preset {options.ablate_preset}, or finds them done"


def _require_film(output: str) -> None:
    target = Path(output)
    if output != "-":
        require_writable(target, folder=target.suffix == "")
