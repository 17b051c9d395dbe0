"""Checks and plans of the subcommands but gsd distill (`preflight_distill.py`).

The checks load no torch; a plan may, after what it can say without.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from gsd_cli.base.atomic import require_writable
from gsd_cli.base.errors import UsageError
from gsd_cli.base.text import plural
from gsd_cli.catalogue import cost
from gsd_cli.catalogue.find import local_teacher, require_source, require_teacher, require_text_file
from gsd_cli.catalogue.run_layout import FEATURES_SUFFIXES, PROMPTS_SUFFIX, TEACHER_SUFFIX, next_to_data
from gsd_cli.cli.check_inputs import (
    check_all,
    require_captions,
    require_labels_file,
)
from gsd_cli.cli.check_texts import count_texts

if TYPE_CHECKING:
    from gsd_cli.options import (
        BenchOptions,
        EditOptions,
        InterpolateOptions,
        PrepareOptions,
        SampleOptions,
    )


# -- prepare ------------------------------------------------------------------------------------

USUAL_TEXT = (16, 384)
"""The tokens of a caption and the numbers of a token's vector that a plan assumes."""


def check_prepare(options: PrepareOptions) -> None:
    """Refuse options that contradict each other, a target that cannot be written, and a source that does not exist."""
    from gsd_cli.core.models.teacher_config import read_text_teacher
    from gsd_cli.options.prepare import require_consistent_training, resolve_target, resolve_value_range

    def source() -> None:
        if options.teacher is not None:
            require_text_file(options.source)
            require_teacher(options.teacher)
            if (place := local_teacher(options.teacher)) is not None:
                read_text_teacher(place)
            return
        with suppress(UsageError):  # a data set that exists needs no source
            if resolve_target(options).exists() and not options.force:
                return
        require_source(options.source)

    check_all(
        lambda: require_consistent_training(options),
        lambda: resolve_value_range(options),
        lambda: require_writable(resolve_target(options), folder=False),
        source,
        lambda: require_labels_file(options.labels),
        lambda: require_captions(options.captions),
    )


def plan_prepare(options: PrepareOptions) -> Iterator[str]:
    """What the command would write."""
    from gsd_cli.options.prepare import FEATURE_STEPS, require_consistent_training, resolve_target

    require_consistent_training(options)
    target = resolve_target(options)
    yield f"writes {target}, unless it exists"
    if options.teacher is not None:
        return
    if options.shards:
        yield f"and {options.shards} shards: {target.stem}-000000.tar ..."
    if options.fit_features:
        features = next_to_data(target, FEATURES_SUFFIXES[options.features_net])
        steps = options.fit_steps or FEATURE_STEPS
        yield f"trains {options.features_net} features for {steps:,} steps: {features}/"
    if options.fit_teacher:
        if options.captions is not None:
            yield f"encodes the captions: {next_to_data(target, PROMPTS_SUFFIX)}"
        yield f"trains {next_to_data(target, TEACHER_SUFFIX)}/"
        yield _estimate_fit(options)


def _estimate_fit(options: PrepareOptions) -> str:
    """The length and the time of --fit-teacher on this device, by a timed step. Loads torch."""
    from gsd_cli.compute.device import resolve_device
    from gsd_cli.core.training.fit_estimate import describe_fit, seconds_per_step
    from gsd_cli.options.prepare import resolve_fit_settings

    device = resolve_device(options.device)
    settings = resolve_fit_settings(options, on_cpu=device.type == "cpu")
    shape = (1 if options.grey else 3, options.size, options.size)
    text = USUAL_TEXT if settings.text_encoder is not None else None
    return describe_fit(settings, seconds_per_step(settings, shape, device, options.precision, text=text), device)


# -- sample, interpolate, edit, bench -----------------------------------------------------------


def plan_sample(options: SampleOptions) -> Iterator[str]:
    """What the command would write."""
    from gsd_cli.options.sample import resolve_export, resolve_format, resolve_seeds

    if (target := resolve_export(options)) is not None:
        yield f"exports the model to {target} in {options.export_precision}, compared with torch on 64 seeds"
        return
    where = "stdout" if options.output == "-" else options.output
    format_ = resolve_format(options)
    what = "a grid" if options.grid else format_
    size = cost.describe_sample_size(options.model, len(resolve_seeds(options)), options.refine or 0)
    yield f"{size} as {what} to {where}"


def plan_interpolate(options: InterpolateOptions) -> Iterator[str]:
    """What the command would write."""
    ends = max(len(options.images), count_texts(options.prompt, options.prompts))
    legs = ends - 1 + options.loop
    frames = legs * (options.frames - 1) + (not options.loop)
    yield f"{2 * frames - 2 if options.pingpong else frames} frames to {options.output}"


def plan_edit(options: EditOptions) -> Iterator[str]:
    """What the command would write."""
    from gsd_cli.options.edit import resolve_direction_name, resolve_strengths

    if options.list:
        yield "lists what can be edited"
        return
    if options.explore is not None:
        yield f"writes {options.explore}/: a page, the generator, and the runtime that browsers need"
        return
    name, way = resolve_direction_name(options), "along" if options.toward is None else "toward"
    if options.image is not None:
        yield f"{plural(len(resolve_strengths(options)), 'image')} {way} {name} to {options.output}"
    if options.save_direction is not None:
        yield f"saves the direction {name} to {options.save_direction}"


def plan_bench(options: BenchOptions) -> Iterator[str]:
    """What the command would measure."""
    report = f"; writes {options.report}/" if options.report else ""
    yield f"measures {options.metrics} of the model and of {options.compare}{report}"
    if options.ablate:
        yield f"distils three variants at --preset {options.ablate_preset}, unless they are finished"
