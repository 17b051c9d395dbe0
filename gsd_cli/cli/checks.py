"""What sample, interpolate, edit and bench refuse before torch is loaded. All mistakes are named at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from gsd_cli.base.atomic import require_writable
from gsd_cli.base.errors import GsdError, UsageError
from gsd_cli.catalogue.exports import is_export, require_onnx
from gsd_cli.catalogue.find import find_model
from gsd_cli.catalogue.image_names import count_latents
from gsd_cli.catalogue.model_facts import ModelFacts, model_facts
from gsd_cli.catalogue.sampler_steps import require_steps_of_teacher
from gsd_cli.cli.check_directions import preserve_checks, require_direction
from gsd_cli.cli.check_inputs import (
    Check,
    check_all,
    export_checks,
    exported_model_checks,
    image_checks,
    require_class,
    require_data_set,
    require_example_folders,
    require_features,
    require_statistics,
)
from gsd_cli.cli.check_texts import count_texts, require_text_model, text_checks

if TYPE_CHECKING:
    from gsd_cli.options import BenchOptions, EditOptions, InterpolateOptions, SampleOptions

GENERAL_FEATURES = ("inception", "clip")


def check_sample(options: SampleOptions) -> None:
    """Refuse an unknown model or class, a format that contradicts the output, and an output that cannot be written."""
    from gsd_cli.options.sample import resolve_export, resolve_format

    if options.export is not None:
        of_export = export_checks(options.export, options.export_precision)
        check_all(lambda: resolve_export(options), *of_export, lambda: find_model(options.model))
        return

    def output() -> None:
        format_ = resolve_format(options)
        if options.output != "-":
            require_writable(Path(options.output), folder=format_ == "folder")

    named = "--prompts" if options.prompt is None else "--prompt"

    def of_model(model: ModelFacts) -> list[Check]:
        given = options.prompts if options.prompt is None else options.prompt
        return [lambda: require_class(options.class_, model), lambda: require_text_model(named, given, model)]

    checks = _model_checks(options.model, of_model)
    check_all(output, *checks, *backend_checks(options.backend))


def check_interpolate(options: InterpolateOptions) -> None:
    """Refuse an unknown model or class, what is not an image, and an output that cannot be written."""
    from gsd_cli.options.interpolate import require_pairs

    named = "--prompt" if options.prompt else "--prompts"

    def of_model(model: ModelFacts) -> list[Check]:
        return [
            lambda: require_class(options.class_, model),
            lambda: require_text_model(named, options.prompt or options.prompts, model),
            *image_checks(options.images, model),
            *_written_file_checks(options.save_latent),
        ]

    check_all(
        lambda: _require_frames(options),
        *text_checks("--prompt", options.prompt, options.prompts),
        *_model_checks(options.model, of_model),
        *backend_checks(options.backend),
    )
    require_pairs(count_latents(options.images), count_texts(options.prompt, options.prompts))


def check_edit(options: EditOptions) -> None:
    """Refuse what names no image, attribute, direction or class, a bad range, and an output that cannot be written."""
    from gsd_cli.options.edit import resolve_strengths

    def of_model(model: ModelFacts) -> list[Check]:
        checks: list[Check] = [lambda: require_class(options.class_, model)]
        for name, given in (("--prompt", options.prompt), ("--toward", options.toward)):
            checks.append(partial(require_text_model, name, given, model))
        if not options.list:
            checks.append(lambda: require_direction(options, model))
            checks += image_checks([options.image] if options.image else [], model)
        written = (options.save_latent, options.save_direction)
        return [*checks, *preserve_checks(options, model), *(c for path in written for c in _written_file_checks(path))]

    data = options.data
    texts = [text for text in (options.prompt, options.toward) if text is not None]
    check_all(
        *text_checks("--toward" if options.prompt is None else "--prompt", texts, options.prompts),
        lambda: resolve_strengths(options),
        lambda: _require_output(options),
        lambda: require_example_folders(options.fit),
        *([lambda: require_data_set(data, "--data")] if data is not None else []),
        *_model_checks(options.model, of_model),
        *backend_checks(options.backend),
    )
    if options.image is not None and not options.list and (count := count_latents([options.image])) != 1:
        raise UsageError(
            [f"{options.image} holds {count} latents; edit takes one image"], hint="save one latent per file"
        )


def check_bench(options: BenchOptions) -> None:
    """Refuse an unknown model, baseline, feature set or reference, and a report that cannot be written."""
    from gsd_cli.options.bench import is_folder, split

    def check_of(name: str) -> Check:
        return lambda: find_model(name)

    report, scored = options.report, "clip-score" in options.wanted
    texts = "--metrics clip-score" if scored else "--prompts"
    check_all(
        *text_checks("--prompts", (), options.prompts),
        lambda: require_text_model(texts, scored or options.prompts, model_facts(options.model)),
        lambda: require_steps_of_teacher(split(options.compare), find_model(options.model)),
        *(check_of(name) for name in split(options.compare) if is_folder(name)),
        lambda: require_features(options.features, GENERAL_FEATURES),
        lambda: require_statistics(options.stats),
        *backend_checks(options.backend),
        *([lambda: require_writable(report, folder=True)] if report is not None else []),
    )


def backend_checks(backend: str | None) -> list[Check]:
    """The check of --backend: the packages that it needs."""
    return [require_onnx] if backend == "onnx" else []


def _model_checks(spec: str | None, of_model: Callable[[ModelFacts], list[Check]]) -> list[Check]:
    """The checks that need the facts of the model; only those of the model itself where there are none."""
    if is_export(spec):
        return exported_model_checks(spec)
    try:
        return of_model(model_facts(spec))
    except GsdError:
        return [lambda: model_facts(spec)]


def _written_file_checks(path: Path | None) -> list[Check]:
    return [] if path is None else [lambda: require_writable(path, folder=False)]


def _require_frames(options: InterpolateOptions | EditOptions) -> None:
    from gsd_cli.options.frames import resolve_frames_format

    format_ = resolve_frames_format(options)
    if format_ == "mp4" and find_spec("av") is None:
        raise GsdError("writing .mp4 needs PyAV", hint="pip install 'gsd-cli[film]', or write a .gif or .webp")
    if options.output != "-":
        require_writable(Path(options.output), folder=format_ == "folder")


def _require_output(options: EditOptions) -> None:
    if options.explore is not None:
        _require_explorer(options.explore)
    elif options.list:
        _require_strips_file(options)
    elif options.image is not None:  # else --save-direction writes its own file
        _require_frames(options)


def _require_explorer(folder: Path) -> None:
    """Raise GsdError where the extra is missing, or where the folder cannot be written."""
    require_onnx()
    require_writable(folder, folder=True)


def _require_strips_file(options: EditOptions) -> None:
    from gsd_cli.catalogue.file_formats import IMAGE_FORMATS

    target = Path(options.output)
    if "output" not in options.model_fields_set:
        return
    if target.suffix.lower().lstrip(".") not in (*IMAGE_FORMATS, "jpeg"):
        raise UsageError([f"-o {target}: --list draws one image"], hint="give -o all.png")
    require_writable(target, folder=False)
