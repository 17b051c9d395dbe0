"""Checks and plans of gsd distill. The checks load no torch; the plan may, after what it can say without."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from gsd_cli.base.atomic import require_writable
from gsd_cli.base.console import Console, Result
from gsd_cli.base.errors import ExitCode, GsdError, UsageError
from gsd_cli.base.text import format_bytes
from gsd_cli.catalogue import cost
from gsd_cli.catalogue.bare_files import is_bare
from gsd_cli.catalogue.find import find_model, local_teacher, read_card, require_teacher
from gsd_cli.catalogue.run_layout import HUB
from gsd_cli.cli.check_inputs import (
    check_all,
    export_checks,
    require_data_set,
    require_features,
    require_network,
)

if TYPE_CHECKING:
    from gsd_cli.core.distillation.estimate import Estimate
    from gsd_cli.options import (
        DistillOptions,
    )


def check_distill(options: DistillOptions) -> None:
    """Refuse an unknown teacher, a run folder that cannot be written, and one that was started with other options."""
    from gsd_cli.core.distillation.run_folder import check_options, count_steps, require_disk, resolve_run_folder

    if options.list_teachers:
        return
    check_all(
        lambda: _check_teacher(options),
        lambda: _check_start(options.start),
        lambda: require_features(options.features),
        lambda: _require_images(options),
        *export_checks(options.export, options.export_precision),
        lambda: require_network(options),
    )
    folder = resolve_run_folder(options)
    require_writable(folder, folder=True)
    require_disk(options, folder)
    if options.epochs is None:
        check_options(options, folder, count_steps(options, None))


def _require_images(options: DistillOptions) -> None:
    """Raise GsdError (exit 3) for a data set that does not exist, and for a discriminator without real images."""
    from gsd_cli.core.distillation.inputs import choose_data

    data = choose_data(options)
    if data.origin == "given" and data.shown is not None:
        require_data_set(data.shown, "--data")
    asked = [
        flag
        for flag, ratio in (("--adversarial", options.adversarial), ("--feature-matching", options.feature_matching))
        if data.origin == "none" and isinstance(ratio, float) and ratio > 0
    ]
    if asked:
        raise UsageError(
            [f"{flag} needs real images, and {options.teacher} comes with none" for flag in asked],
            hint=f"give --data DATA.zip or --data teacher, or leave out {' and '.join(asked)}",
        )


def _check_start(start: str | None) -> None:
    """Raise GsdError (exit 3) for a `--start` that is no generator."""
    if start is not None:
        find_model(start)


def _check_teacher(options: DistillOptions) -> None:
    """Refuse an unknown teacher, and a folder whose config files are not those of one or do not say how it was
    trained."""
    from gsd_cli.core.distillation.inputs import choose_data, choose_prompts
    from gsd_cli.core.distillation.run_folder import read_recorded, resolve_run_folder
    from gsd_cli.core.models.teacher_config import read_teacher_config

    require_teacher(options.teacher)
    place = local_teacher(options.teacher)
    if place is None or is_bare(place):  # reading the latter needs torch
        return
    assume = options.assume or read_recorded(options, resolve_run_folder(options), "teacher_reading")
    config = read_teacher_config(place, assume)
    config.require_prompts(choose_prompts(options))
    if choose_data(options).origin in ("none", "teacher"):  # no real images on which readings could be tried
        config.require_known()


def plan_distill(options: DistillOptions) -> Iterator[str]:
    """What a run would write, and the memory and time it would take. The last lines load torch, which takes seconds."""
    from gsd_cli.core.distillation.inputs import SAMPLER, choose_data, describe_images, resolve_ratios, uses_images
    from gsd_cli.core.distillation.run_folder import count_steps, resolve_run_folder

    if options.list_teachers:
        yield "lists the known teachers"
        return
    data = choose_data(options)
    steps = count_steps(options, _count_epoch(options))
    options = options.model_copy(update=resolve_ratios(options, data))
    yield f"{options.teacher}: {_describe_length(options, steps)}"
    folder = resolve_run_folder(options)
    yield f"writes {folder}/: generator/ best/ samples/ metrics.jsonl curves.png options.json checkpoints/"
    if options.export is not None:
        yield f"and at the end {options.export}, in {options.export_precision}"
    if options.push_to_hub is not None:
        yield f"prepares {folder}/{HUB}/ for {options.push_to_hub}" + (" and uploads it" if options.publish else "")
    yield describe_images(data, shown=uses_images(options))
    if data.origin == "teacher":
        yield f"makes {options.teacher_samples:,} teacher samples ({SAMPLER}) if they are used and not in the cache"
    from gsd_cli.core.distillation.costs import costs_of

    if steps is None:
        yield _describe_estimate(_estimate(options), options, None)
        return
    images = steps * options.batch_size
    # the exact size of a larger student, of adapters, of a piece, or of a copy in bf16 needs the teacher's config
    estimate, state = _estimate(options), None
    times, ranks = cost.growth(options.student_width, options.student_depth), options.adapter_ranks()
    if not isinstance(estimate, GsdError):
        times, state = estimate.student_parameters / estimate.parameters, estimate.state_bytes
    costs = costs_of(options, _first_calls(options))
    calls = costs.passes * images, costs.generator_passes * images
    yield from cost.distillation(options.teacher, *calls, times, ranks, state, refining=options.refine is not None)
    yield _describe_estimate(estimate, options, steps)


def answer_distill(options: DistillOptions, console: Console) -> Result | None:
    """The list of teachers, or the generator of a run that is finished; None where there is something to train."""
    from gsd_cli.core.distillation.run_folder import count_steps, read_finished, resolve_run_folder

    if options.list_teachers:
        return list_teachers()
    # the length of --epochs takes opening the data, --export takes torch, and --push-to-hub a finished folder
    if options.epochs is not None or options.export is not None or options.push_to_hub is not None:
        return None
    return read_finished(options, resolve_run_folder(options), count_steps(options, None), console.say)


def list_teachers() -> Result:
    """A table of the known teachers: size, licence, source, and whether they are on this machine."""
    from dataclasses import asdict

    from gsd_cli.base.table import Table
    from gsd_cli.catalogue.families import TITLES
    from gsd_cli.catalogue.registry import TEACHERS
    from gsd_cli.core.models.hub import is_cached
    from gsd_cli.core.models.teacher_config import SUPPORTED

    rows, facts = [], {}
    for name, entry in TEACHERS.items():
        here = "bundled" if entry.hub is None else "cached" if is_cached(entry.hub) else "no"
        source = entry.hub or "this package"
        millions = f"{entry.parameters / 1e6:.1f} M"
        rows.append([name, f"{entry.size} x {entry.size}", millions, entry.licence, source, here])
        facts[name] = {**asdict(entry), "at_hand": here}
    notes = [f"{name}: {entry.caution}" for name, entry in TEACHERS.items() if entry.caution]
    kinds = ", ".join(TITLES[family] for family in SUPPORTED)
    notes.append(f"Any other in diffusers format: --teacher FOLDER or --teacher OWNER/NAME ({kinds}).")
    columns = ["teacher", "images", "parameters", "licence", "source", "on this machine"]
    return Result(list(TEACHERS), {"teachers": facts}, Table("Teachers", columns, rows, notes))


def _count_epoch(options: DistillOptions) -> int | None:
    """Images per epoch; None if the run's length is not in epochs, because counting opens the data."""
    if options.epochs is None:
        return None
    from gsd_cli.core.distillation.inputs import choose_data
    from gsd_cli.core.distillation.open_data import OpenData

    return OpenData(choose_data(options)).epoch


def _describe_length(options: DistillOptions, steps: int | None) -> str:
    """The length of the run in words."""
    if steps is None:
        return f"as many steps of batch {options.batch_size} as fit into {options.minutes:g} minutes"
    images, now = steps * options.batch_size, f", of which {options.minutes:g} minutes now" if options.minutes else ""
    return f"{steps:,} steps of batch {options.batch_size} = {images:,} images{now}"


def _first_calls(options: DistillOptions) -> int:
    """Calls per image of a first network that stays as it is: one, if the generator of `--start` has a second one."""
    if options.start is None:
        return 0
    return int(bool(read_card(find_model(options.start)).get("later")))


def _estimate(options: DistillOptions) -> Estimate | GsdError:
    """Memory and time of a run, or the reason why they are unknown: a dry run downloads no teacher.

    Raises GsdError for a teacher that is on this machine and that the run would refuse.
    """
    from gsd_cli.base.session import Session
    from gsd_cli.compute.device import resolve_device
    from gsd_cli.core.distillation.estimate import estimate
    from gsd_cli.core.distillation.inputs import choose_data, choose_prompts
    from gsd_cli.core.distillation.open_data import OpenData
    from gsd_cli.core.distillation.run_folder import read_recorded, resolve_run_folder
    from gsd_cli.core.distillation.teacher_reading import add_size, settle_reading
    from gsd_cli.core.models.teacher import load_teacher

    assume = options.assume or read_recorded(options, resolve_run_folder(options), "teacher_reading")
    revision, device, data = options.revision, resolve_device(options.device), OpenData(choose_data(options))
    assume = add_size(options.teacher, assume, data)
    try:
        teacher = load_teacher(
            options.teacher,
            offline=True,
            revision=revision,
            assume=assume,
            undecided=True,
            prompts=choose_prompts(options),
        )
    except GsdError as error:
        if error.code != ExitCode.NETWORK:
            raise
        return error
    if teacher.config is not None and len(teacher.config.readings) > 1:
        settle_reading(teacher, data, device, Session.start(options, Console(quiet=True)))
    return estimate(teacher.denoiser.cpu(), options, device, first_calls=_first_calls(options))


def _describe_estimate(found: Estimate | GsdError, options: DistillOptions, steps: int | None) -> str:
    """Memory and time in words; for a run by the clock, the number of steps instead of the time."""
    from gsd_cli.compute.device import resolve_device

    if isinstance(found, GsdError):
        return f"activations and time: not known until the teacher is downloaded ({found})"
    kept, device = format_bytes(found.activation_bytes), resolve_device(options.device)
    if steps is None:
        count = 60 * (options.minutes or 0) / found.seconds_per_step
        return f"{kept} of activations in float32; at most {count:,.0f} steps on {device} (from one trial call)"
    minutes = found.seconds_per_step * steps / 60
    time = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} hours"
    return f"{kept} of activations in float32; about {time} on {device}, without evaluations (from one trial call)"
