"""gsd distill: a teacher becomes a one-step generator."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gsd_cli.commands.distill_data import SAMPLER, DistillData, choose_data, describe, open_images, with_samples
from gsd_cli.commands.distill_measures import Measure, build_evaluation, choose_measure, describe_measure
from gsd_cli.commands.listing import list_teachers
from gsd_cli.console import Console, Result
from gsd_cli.errors import GsdError, Stopped, UsageError
from gsd_cli.estimate import disk_needed
from gsd_cli.finding import CARD, read_card
from gsd_cli.interrupts import StopRequest
from gsd_cli.options import PRESETS, DistillOptions, DistillSettings
from gsd_cli.paths import RUNS, cache_dir, read_object, require_room
from gsd_cli.writing import ready, write_json

if TYPE_CHECKING:
    from gsd_cli.commands.exporting import Exporter
    from gsd_cli.core.distillation import Distillation
    from gsd_cli.core.phi import PhiSources
    from gsd_cli.core.real_images import RealImages
    from gsd_cli.core.teachers import Teacher
    from gsd_cli.core.trackers import Tracker
    from gsd_cli.core.world import World
    from gsd_cli.data.archive import ImageArchive

_MAY_CHANGE = {"precision", "micro_batch", "recompute", "compile"}
_BEFORE = {"irl_gradient": "free"}
"""What a run did that does not name the option: its only way before there was one. Others are their defaults."""


def plan(options: DistillOptions) -> Iterator[str]:
    """What a run would write, line by line: the last ones take seconds to find out."""
    if options.list_teachers:
        yield "lists the teachers known by name"
        return
    data = choose_data(options)
    steps = total_steps(options, data)
    images = steps * options.batch_size
    yield f"{options.teacher}: {steps:,} steps of batch {options.batch_size} = {images:,} images"
    yield f"writes {run_folder(options)}/: generator/ best/ samples/ metrics.jsonl curves.png options.json checkpoints/"
    yield describe(data, shown=_judges(options))
    if data.origin == "teacher":
        yield f"makes {options.teacher_samples:,} teacher samples ({SAMPLER}) if they are used and not in the cache"
    # torch is loaded from here on, after what is known without it
    from gsd_cli.core.estimate import passes
    from gsd_cli.estimate import distillation

    yield from distillation(options.teacher, passes(options) * images)
    yield from _measured(options, steps)


def _measured(options: DistillOptions, steps: int) -> list[str]:
    """Activations and time, when the teacher is at hand: a dry run downloads nothing."""
    from gsd_cli.core.device import resolve_device
    from gsd_cli.core.estimate import estimate
    from gsd_cli.core.teachers import load_teacher
    from gsd_cli.estimate import size

    try:
        teacher = load_teacher(options.teacher, offline=True, revision=options.revision)
    except GsdError as error:
        return [f"activations and time: not known before the teacher is at hand ({error})"]
    device = resolve_device(options.device)
    found = estimate(teacher.denoiser, options, device)
    minutes = found.seconds_per_step * steps / 60
    time = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} hours"
    kept = size(found.activation_bytes)
    return [f"{kept} of activations in float32; about {time} on {device}, evaluations aside (one call was tried)"]


def run(options: DistillOptions, console: Console, stop: StopRequest) -> Result:
    """Start or continue a run; its generator/ is the result."""
    if options.list_teachers:
        return list_teachers()
    folder, data = run_folder(options), choose_data(options)
    total = total_steps(options, data)
    ready(folder, folder=True)
    if not folder.exists() and (needed := disk_needed(options.teacher)) is not None:
        require_room(folder, needed)
    finished = _check_options(options, folder, total)
    if finished:
        console.say(f"nothing to do: {folder} is finished; --no-resume starts again")
        return _result(folder)
    console.say(f"run folder: {folder}")
    stop.resume = shlex.join(["gsd", "distill", "--teacher", options.teacher, *_changed(options), "-o", str(folder)])
    _distil(options, data, folder, total, console, stop)
    return _result(folder)


def _distil(
    options: DistillOptions, data: DistillData, folder: Path, total: int, console: Console, stop: StopRequest
) -> None:
    """Open what the run needs, refuse what does not fit, then train."""
    from gsd_cli.commands.exporting import Exporter
    from gsd_cli.commands.loading import open_teacher
    from gsd_cli.core.checkpoint import CheckpointStore
    from gsd_cli.core.device import resolve_device
    from gsd_cli.core.distillation import Distillation
    from gsd_cli.core.phi import build_phi
    from gsd_cli.core.trackers import open_tracker
    from gsd_cli.core.world import join_world

    device = resolve_device(options.device)
    world = join_world(device)
    # a teacher that moved on the hub must not change under a run
    revision = options.revision or _recorded(options, folder, "teacher_revision")
    teacher = open_teacher(options.teacher, console, offline=options.offline, revision=revision)
    identity = {**_identity(options), "total_steps": total}
    measure = choose_measure(options, data, teacher, device)
    data = _with_samples(options, data, measure, teacher, device, world, console, stop)
    real = open_images(data, teacher, device, console, stop) if _judges(options) else None
    _say_images(options, data, real, measure, folder, console)
    evaluation = build_evaluation(options, teacher, data, measure, folder, device)
    phi = build_phi(options.irl_phi, _phi_sources(options, data, teacher, device))
    # EncodedImages is no archive, but is asked for nothing else
    shown = cast("ImageArchive | None", real)
    task = Distillation(teacher.denoiser, options, total, device, evaluation, phi, world, shown)
    exporter = Exporter(options, teacher, folder, identity, measure.features, measure.figure)
    tracker = open_tracker(options.tracker if world.main else None, folder, identity, offline=options.offline)
    if world.main:  # nothing is written before all that may be refused was looked at
        if not options.resume:
            CheckpointStore(folder / "checkpoints").clear()
            exporter.forget()
        notes = {"teacher_revision": teacher.revision, "real_images": _facts(data, real)}
        write_json(folder / "options.json", {**identity, **notes})
    world.wait()
    _train(options, task, total, exporter, tracker, world, console, stop)


def _train(
    options: DistillOptions, task: Distillation, total: int, exporter: Exporter, tracker: Tracker, world: World,
    console: Console, stop: StopRequest,
) -> None:  # fmt: skip
    """Train to the end or to a signal, and leave the generators of what was trained."""
    from gsd_cli.commands.fitting import fit

    folder, every = exporter.folder, max(1, round(options.eval_every * 1000 / options.batch_size))
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


def _compare_with_best(folder: Path, exporter: Exporter, console: Console) -> None:
    last = read_card(folder / "generator").get("figures", {}).get("fd")
    if last is not None and exporter.best < last:
        best = folder / "best"
        console.say(f"{exporter.figure} was {exporter.best:.4g} at its best: {best}; it is {last:.4g} at the end")


def _judges(options: DistillOptions) -> bool:
    """Whether a discriminator looks at real images."""
    return bool(options.adversarial)


def _with_samples(
    options: DistillOptions, data: DistillData, measure: Measure, teacher: Teacher, device: Any, world: World,
    console: Console, stop: StopRequest,
) -> DistillData:  # fmt: skip
    """`data` with the teacher's samples, where they are asked for and something looks at them."""
    if data.origin != "teacher":
        return data
    if not _judges(options) and measure.against != "samples":
        console.warn("--data teacher: nothing uses the teacher's samples, for there is no discriminator")
        return data
    data = with_samples(data, options, teacher, device, console, stop, main=world.main)
    world.wait()
    return data


def _say_images(
    options: DistillOptions, data: DistillData, real: RealImages | None, measure: Measure, folder: Path,
    console: Console,
) -> None:  # fmt: skip
    """Which real images are used, what is measured against, and whether a resumed run began with others."""
    console.say(describe(data, shown=real is not None, count=None if real is None else len(real)))
    if data.origin == "teacher" or measure.against == "nothing":
        console.say(describe_measure(measure, data))
    before, now = _recorded(options, folder, "real_images"), _facts(data, real)
    if before not in (None, now):
        console.warn(f"the run began with other real images: {before}, now {now}")


def _facts(data: DistillData, real: RealImages | None) -> str | None:
    """What options.json notes of the real images."""
    return None if real is None else f"{len(real)} {data.origin}"


def run_folder(options: DistillOptions) -> Path:
    """Where the run lives."""
    return options.output or RUNS / f"{Path(options.teacher).name}-{options.preset}"


def total_steps(options: DistillOptions, data: DistillData) -> int:
    """The length of the run in generator steps."""
    if options.steps is not None:
        return options.steps
    images = 1000 * (options.kimg or 0) if options.epochs is None else options.epochs * data.epoch
    return max(1, round(images / options.batch_size))


def _recorded(options: DistillOptions, folder: Path, key: str) -> Any:
    """What the run that is resumed noted in options.json; None where it noted nothing."""
    path = folder / "options.json"
    return read_object(path).get(key) if options.resume and path.exists() else None


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
    if differing and not options.force:
        changes = ", ".join(f"{key} ({before.get(key)} -> {now[key]})" for key in differing)
        raise UsageError(
            [f"{folder} was started with other options: {changes}"],
            hint="use its options, another folder with -o, --no-resume to start again, or --force to go on",
        )
    generator = folder / "generator"
    return (generator / CARD).exists() and read_card(generator).get("steps", 0) >= total and not differing


def _phi_sources(options: DistillOptions, data: DistillData, teacher: Teacher, device: Any) -> PhiSources:
    """What the isometric term's features may need; without real data a standard deviation of 1/2 a channel."""
    from gsd_cli.core.phi import PhiSources

    std = [0.5] * teacher.image_shape[0]
    if (images := data.measured_images) is not None:
        variance = images.record.get("variance", [0.25] * len(std))
        std = [max(v, 1e-6) ** 0.5 for v in variance]
    denoiser, autoencoder = teacher.denoiser.to(device), teacher.autoencoder.to(device)
    return PhiSources(denoiser, autoencoder, std, cache_dir(options.cache_dir), options.offline, device)


def _result(folder: Path) -> Result:
    card = read_card(folder / "generator")
    return Result([str(folder / "generator")], {"images": card["images"], **card["figures"]})
