"""gsd distill: a teacher becomes a one-step generator."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gsd_cli.commands.listing import list_teachers
from gsd_cli.console import Console, Result
from gsd_cli.errors import GsdError, Stopped, UsageError
from gsd_cli.estimate import disk_needed, growth
from gsd_cli.finding import CARD, read_card
from gsd_cli.interrupts import StopRequest
from gsd_cli.options import PRESETS, DistillOptions, DistillSettings
from gsd_cli.paths import RUNS, cache_dir, read_object, require_room
from gsd_cli.writing import ready, write_json

if TYPE_CHECKING:
    from gsd_cli.commands.exporting import Exporter
    from gsd_cli.core.estimate import Estimate
    from gsd_cli.core.phi import PhiSources
    from gsd_cli.core.teachers import Teacher
    from gsd_cli.data.archive import ImageArchive
    from gsd_cli.metrics.evaluation import Evaluation

DEFAULT_EPOCH = 50_000
_MAY_CHANGE = {"precision", "micro_batch", "recompute", "compile"}
_SIZE = {"student_width", "student_depth"}
"""Of the student: not even --force changes it, for no checkpoint would fit."""
_BEFORE = {"irl_gradient": "free"}
"""What a run did that does not name the option: its only way before there was one. Others are their defaults."""


def plan(options: DistillOptions) -> Iterator[str]:
    """What a run would write, line by line: the last ones take seconds to find out."""
    if options.list_teachers:
        yield "lists the teachers known by name"
        return
    steps = total_steps(options)
    images = steps * options.batch_size
    yield f"{options.teacher}: {steps:,} steps of batch {options.batch_size} = {images:,} images"
    yield f"writes {run_folder(options)}/: generator/ best/ samples/ metrics.jsonl curves.png options.json checkpoints/"
    # torch is loaded from here on, after what is known without it
    from gsd_cli.core.estimate import generator_passes, passes
    from gsd_cli.estimate import distillation

    # the exact size of a larger student needs the teacher's config
    tried, times = None, 1.0
    if _growth(options) > 1:
        tried = _tried(options)
        times = _growth(options) if isinstance(tried, GsdError) else tried.student_parameters / tried.parameters
    yield from distillation(options.teacher, passes(options) * images, generator_passes(options) * images, times)
    yield _measured(tried or _tried(options), options, steps)


def _tried(options: DistillOptions) -> Estimate | GsdError:
    """What a run needs, or why that is not known: a dry run downloads no teacher."""
    from gsd_cli.core.device import resolve_device
    from gsd_cli.core.estimate import estimate
    from gsd_cli.core.teachers import load_teacher

    try:
        teacher = load_teacher(options.teacher, offline=True, revision=options.revision)
    except GsdError as error:
        return error
    return estimate(teacher.denoiser, options, resolve_device(options.device))


def _measured(found: Estimate | GsdError, options: DistillOptions, steps: int) -> str:
    """Activations and time in words."""
    from gsd_cli.core.device import resolve_device
    from gsd_cli.estimate import size

    if isinstance(found, GsdError):
        return f"activations and time: not known before the teacher is at hand ({found})"
    minutes = found.seconds_per_step * steps / 60
    time = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} hours"
    kept, device = size(found.activation_bytes), resolve_device(options.device)
    return f"{kept} of activations in float32; about {time} on {device}, evaluations aside (one call was tried)"


def _growth(options: DistillOptions) -> float:
    """About how many times the teacher's parameters the student has."""
    return growth(options.student_width, options.student_depth)


def run(options: DistillOptions, console: Console, stop: StopRequest) -> Result:
    """Start or continue a run; its generator/ is the result."""
    if options.list_teachers:
        return list_teachers()
    folder, total = run_folder(options), total_steps(options)
    ready(folder, folder=True)
    if not folder.exists() and (needed := disk_needed(options.teacher, _growth(options))) is not None:
        require_room(folder, needed)
    finished = _check_options(options, folder, total)
    if finished:
        console.say(f"nothing to do: {folder} is finished; --no-resume starts again")
        return _result(folder)
    console.say(f"run folder: {folder}")
    stop.resume = shlex.join(["gsd", "distill", "--teacher", options.teacher, *_changed(options), "-o", str(folder)])

    from gsd_cli.commands.exporting import Exporter
    from gsd_cli.commands.fitting import fit
    from gsd_cli.commands.loading import open_teacher
    from gsd_cli.core.checkpoint import CheckpointStore
    from gsd_cli.core.device import resolve_device
    from gsd_cli.core.distillation import Distillation
    from gsd_cli.core.phi import build_phi
    from gsd_cli.core.trackers import open_tracker
    from gsd_cli.core.world import join_world

    device = resolve_device(options.device)
    world = join_world(device)
    revision = options.revision or _recorded_revision(options, folder)
    teacher = open_teacher(options.teacher, console, offline=options.offline, revision=revision)
    identity = {**_identity(options), "total_steps": total}
    evaluation = _evaluation(options, teacher, folder, device, console)
    phi = build_phi(options.irl_phi, _phi_sources(options, teacher, device))
    task = Distillation(teacher.denoiser, options, total, device, evaluation, phi, world, _real(options))
    figure = evaluation.extractor.figure if evaluation.extractor else "FD"
    exporter = Exporter(options, teacher, folder, identity, _features(options) or teacher.features, figure)
    tracker = open_tracker(options.tracker if world.main else None, folder, identity, offline=options.offline)
    every = max(1, round(options.eval_every * 1000 / options.batch_size))
    if world.main:  # nothing is written before all that may be refused was looked at
        if not options.resume:
            CheckpointStore(folder / "checkpoints").clear()
            exporter.forget()
        write_json(folder / "options.json", {**identity, "teacher_revision": teacher.revision})
    world.wait()
    try:
        fit(
            task, total, folder, every, "distilling", console, stop, world, tracker=tracker,
            on_evaluation=lambda report: exporter.keep_best(task.average, report),
        )  # fmt: skip
    except Stopped:
        if world.main:
            exporter.finish(task.average)
        raise
    finally:
        tracker.close()
    if world.main:
        exporter.finish(task.average)
        _compare_with_best(folder, exporter, console)
    world.wait()
    return _result(folder)


def _compare_with_best(folder: Path, exporter: Exporter, console: Console) -> None:
    last = read_card(folder / "generator").get("figures", {}).get("fd")
    if last is not None and exporter.best < last:
        best = folder / "best"
        console.say(f"{exporter.figure} was {exporter.best:.4g} at its best: {best}; it is {last:.4g} at the end")


def _real(options: DistillOptions) -> ImageArchive | None:
    """The real images that the adversarial term shows."""
    data = _data(options)
    if data is None or not options.adversarial:
        return None
    from gsd_cli.data.archive import ImageArchive

    return ImageArchive(data)


def run_folder(options: DistillOptions) -> Path:
    """Where the run lives."""
    return options.output or RUNS / f"{Path(options.teacher).name}-{options.preset}"


def total_steps(options: DistillOptions) -> int:
    """The length of the run in generator steps."""
    if options.steps is not None:
        return options.steps
    images = 1000 * (options.kimg or 0) if options.epochs is None else options.epochs * _epoch(options)
    return max(1, round(images / options.batch_size))


def _epoch(options: DistillOptions) -> int:
    data = _data(options)
    if data is None:
        return DEFAULT_EPOCH
    from gsd_cli.data.archive import ImageArchive

    return len(ImageArchive(data))


def _data(options: DistillOptions) -> Path | None:
    """The real images: --data, else what `gsd prepare` left beside a teacher it fitted."""
    return options.data or _beside(options.teacher, ".zip")


def _features(options: DistillOptions) -> str | None:
    """The features asked for, else those `gsd prepare` fitted beside the teacher."""
    beside = _beside(options.teacher, "-features")
    return options.features or (str(beside) if beside else None)


def _beside(teacher: str, suffix: str) -> Path | None:
    folder = Path(teacher).resolve()
    if not folder.is_dir() or not folder.name.endswith("-teacher"):
        return None
    found = folder.with_name(folder.name.removesuffix("-teacher") + suffix)
    return found if found.exists() else None


def _recorded_revision(options: DistillOptions, folder: Path) -> str | None:
    """The commit a run started with: a teacher that moved on the hub must not change under it."""
    path = folder / "options.json"
    if not options.resume or not path.exists():
        return None
    revision: str | None = read_object(path).get("teacher_revision")
    return revision


def _identity(options: DistillOptions) -> dict[str, Any]:
    """What a resumed run must agree on: the mathematics and the teacher."""
    settings = {name: getattr(options, name) for name in DistillSettings.model_fields if name not in _MAY_CHANGE}
    return {"teacher": options.teacher, "revision": options.revision, **settings}


def _idle(options: DistillOptions) -> set[str]:
    """The settings that nothing asks: they may differ, in a run from before a default changed."""
    if options.irl == "off" or options.irl_weight == 0:
        return {"irl_weight", "irl_ratio", "irl_every", "irl_phi", "irl_gradient", "tau_min", "tau_max"}
    return {"irl_ratio"} if options.irl_weight != "auto" or options.sidl_weight == 0 else set()


def _changed(options: DistillOptions) -> list[str]:
    """The flags that a resume command must repeat."""
    skip = {"teacher", "output", "resume", "force"}
    implied = PRESETS[options.preset]
    flags: list[str] = []
    for name in sorted(options.model_fields_set - skip):
        value = getattr(options, name)
        if implied.get(name) == value:
            continue
        option = "--" + name.rstrip("_").replace("_", "-")
        if isinstance(value, bool):
            flags += [option] if value else []
        elif value is not None:
            flags += [option, str(value)]
    return flags


def _check_options(options: DistillOptions, folder: Path, total: int) -> bool:
    """Whether the run is finished. Raises UsageError (exit 2) naming keys that differ."""
    path = folder / "options.json"
    if not path.exists() or not options.resume:
        return False
    before = {**DistillSettings().model_dump(), **_BEFORE, **read_object(path)}
    now = {**_identity(options), "total_steps": total}
    # a finished length may grow: nothing in the past depends on it but the warm-up of the weight, and a decay
    free = _idle(options) | (set() if options.lr_decay else {"total_steps"})
    differing = [key for key in now if key not in free and before.get(key) != now[key]]
    if differing and (not options.force or _SIZE & set(differing)):
        changes = ", ".join(f"{key} ({before.get(key)} -> {now[key]})" for key in differing)
        # a checkpoint fits one size of student
        forced = "" if _SIZE & set(differing) else ", or --force to go on"
        raise UsageError(
            [f"{folder} was started with other options: {changes}"],
            hint=f"use its options, another folder with -o, --no-resume to start again{forced}",
        )
    generator = folder / "generator"
    return (generator / CARD).exists() and read_card(generator).get("steps", 0) >= total and not differing


def _evaluation(options: DistillOptions, teacher: Teacher, folder: Path, device: Any, console: Console) -> Evaluation:
    """The measures at hand: bundled or given features and their reference, else the teacher's on --data."""
    from gsd_cli.data.archive import ImageArchive
    from gsd_cli.metrics.evaluation import Evaluation
    from gsd_cli.metrics.features import Extractor, TeacherFeatures, classifier_features, features_folder
    from gsd_cli.metrics.reference import data_statistics, reference_of_features, require_same_shape

    teacher.denoiser.to(device)
    autoencoder = teacher.autoencoder.to(device)
    data, features = _data(options), _features(options) or teacher.features
    extractor: Extractor = TeacherFeatures(teacher.denoiser, autoencoder)
    reference = None
    if features is not None:
        extractor = classifier_features(features, device, teacher.image_shape)
    if data is not None:
        require_same_shape(ImageArchive(data), teacher.image_shape)
        reference = data_statistics(data, extractor, device, options.batch_size)
    elif features is not None:
        reference = reference_of_features(features_folder(features), extractor).statistics
    else:
        console.say("no --data: the Frechet distance is not measured")
    return Evaluation(folder / "samples", extractor, reference, options.eval_samples, options.batch_size, autoencoder)


def _phi_sources(options: DistillOptions, teacher: Teacher, device: Any) -> PhiSources:
    """What the isometric term's features may need; without --data a standard deviation of 1/2 a channel."""
    from gsd_cli.core.phi import PhiSources
    from gsd_cli.data.archive import ImageArchive

    std = [0.5] * teacher.image_shape[0]
    if (data := _data(options)) is not None:
        variance = ImageArchive(data).record.get("variance", [0.25] * len(std))
        std = [max(v, 1e-6) ** 0.5 for v in variance]
    denoiser, autoencoder = teacher.denoiser.to(device), teacher.autoencoder.to(device)
    return PhiSources(denoiser, autoencoder, std, cache_dir(options.cache_dir), options.offline, device)


def _result(folder: Path) -> Result:
    card = read_card(folder / "generator")
    return Result([str(folder / "generator")], {"images": card["images"], **card["figures"]})
