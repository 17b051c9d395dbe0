"""gsd distill: a teacher becomes a one-step generator."""

from __future__ import annotations

import copy
import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gsd_cli.commands.distill_data import SAMPLER, DistillData, choose_data, describe, open_images, with_samples
from gsd_cli.commands.distill_measures import Measure, build_evaluation, choose_measure, describe_measure
from gsd_cli.commands.distill_pace import Record, shorter_than_asked
from gsd_cli.commands.listing import list_teachers
from gsd_cli.console import Console, Result
from gsd_cli.errors import GsdError, Stopped, UsageError
from gsd_cli.estimate import disk_needed, growth
from gsd_cli.finding import CARD, read_card
from gsd_cli.interrupts import StopRequest
from gsd_cli.options import PRESETS, DistillOptions, DistillSettings
from gsd_cli.paths import RUNS, cache_dir, read_object, require_room
from gsd_cli.writing import ready

if TYPE_CHECKING:
    from gsd_cli.commands.exporting import Exporter
    from gsd_cli.core.distillation import Distillation
    from gsd_cli.core.estimate import Estimate
    from gsd_cli.core.pace import Pace
    from gsd_cli.core.phi import PhiSources
    from gsd_cli.core.real_images import RealImages
    from gsd_cli.core.standing import Cadence
    from gsd_cli.core.teachers import Teacher
    from gsd_cli.core.trackers import Tracker
    from gsd_cli.core.training import Task
    from gsd_cli.core.world import World

EVALUATING, SAVING = 0.05, 0.02
"""Shares of the steps' time that evaluations and checkpoints may take."""
TRIED = 32
"""Images in the passes that choose a precision, at most."""
FITTED = ("borders", "cells")
"""Isometric forms that are fitted to images."""
_MAY_CHANGE = {"precision", "noise_device", "micro_batch", "recompute", "compile"}
_OF_DISCRIMINATOR = {"discriminator_lr", "discriminator_steps", "discriminator_penalty"}
_SIZE = {"student_width", "student_depth"}
"""Of the student: not even --force changes it, for no checkpoint would fit."""
_BEFORE = {"irl_gradient": "free", "fake_score": "plain"}
"""What a run did that does not name the option: its only way before there was one. Others are their defaults."""


def plan(options: DistillOptions) -> Iterator[str]:
    """What a run would write, line by line: the last ones take seconds to find out."""
    if options.list_teachers:
        yield "lists the teachers known by name"
        return
    data = choose_data(options)
    steps = total_steps(options, data)
    options = options.model_copy(update={"adversarial": _ratio(options, data)})
    yield f"{options.teacher}: {_length(options, steps)}"
    yield f"writes {run_folder(options)}/: generator/ best/ samples/ metrics.jsonl curves.png options.json checkpoints/"
    yield describe(data, shown=_judges(options))
    if data.origin == "teacher":
        yield f"makes {options.teacher_samples:,} teacher samples ({SAMPLER}) if they are used and not in the cache"
    # torch is loaded from here on, after what is known without it
    from gsd_cli.core.estimate import generator_passes, passes
    from gsd_cli.estimate import distillation

    if steps is None:
        yield _measured(_tried(options), options, None)
        return
    images = steps * options.batch_size
    # the exact size of a larger student needs the teacher's config
    tried, times = None, 1.0
    if _growth(options) > 1:
        tried = _tried(options)
        times = _growth(options) if isinstance(tried, GsdError) else tried.student_parameters / tried.parameters
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
    from gsd_cli.core.device import resolve_device
    from gsd_cli.core.estimate import estimate
    from gsd_cli.core.teachers import load_teacher

    try:
        teacher = load_teacher(options.teacher, offline=True, revision=options.revision)
    except GsdError as error:
        return error
    return estimate(teacher.denoiser, options, resolve_device(options.device))


def _measured(found: Estimate | GsdError, options: DistillOptions, steps: int | None) -> str:
    """Activations and time in words; the steps that fit, where the run has minutes and no other length."""
    from gsd_cli.core.device import resolve_device
    from gsd_cli.estimate import size

    if isinstance(found, GsdError):
        return f"activations and time: not known before the teacher is at hand ({found})"
    kept, device = size(found.activation_bytes), resolve_device(options.device)
    if steps is None:
        count = 60 * (options.minutes or 0) / found.seconds_per_step
        return f"{kept} of activations in float32; at most {count:,.0f} steps on {device} (one call was tried)"
    minutes = found.seconds_per_step * steps / 60
    time = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} hours"
    return f"{kept} of activations in float32; about {time} on {device}, evaluations aside (one call was tried)"


def _growth(options: DistillOptions) -> float:
    """About how many times the teacher's parameters the student has."""
    return growth(options.student_width, options.student_depth)


def run(options: DistillOptions, console: Console, stop: StopRequest) -> Result:
    """Start or continue a run; its generator/ is the result."""
    if options.list_teachers:
        return list_teachers()
    folder, data = run_folder(options), choose_data(options)
    total = total_steps(options, data)
    ready(folder, folder=True)
    if not folder.exists() and (needed := disk_needed(options.teacher, _growth(options))) is not None:
        require_room(folder, needed)
    finished = _check_options(options, folder, total)
    if finished:
        console.say(f"nothing to do: {folder} is finished; --no-resume starts again")
        return _result(folder)
    console.say(f"run folder: {folder}")
    if _decayed(options, folder, total):
        console.warn(
            "the learning rate had begun to fall towards the run's old end; it is set for the new one from here on"
        )
    stop.resume = _resume(options, folder)
    _distil(options, data, folder, total, console, stop)
    return _result(folder)


def _distil(
    options: DistillOptions, data: DistillData, folder: Path, total: int | None, console: Console, stop: StopRequest
) -> None:
    """Open what the run needs, refuse what does not fit, then train."""
    from gsd_cli.commands.exporting import Exporter
    from gsd_cli.commands.loading import open_teacher
    from gsd_cli.core.checkpoint import CheckpointStore
    from gsd_cli.core.device import exact_if_fp32, resolve_device
    from gsd_cli.core.distillation import Distillation
    from gsd_cli.core.pace import UNSETTLED
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
    evaluation = build_evaluation(options, teacher, data, measure, folder, device, world)
    phi = build_phi(options.irl_phi, _phi_sources(options, data, teacher, device))
    chosen = {
        "precision": _precision(options, folder, teacher, device, world, console),
        "noise_device": _noise_device(options, folder, device),
    }
    options = options.model_copy(update=chosen)
    pixels = teacher.autoencoder.net is None
    task = Distillation(teacher.denoiser, options, total or UNSETTLED, device, evaluation, phi, world, real, pixels)
    exporter = Exporter(options, teacher, folder, identity, measure.features, measure.figure)
    tracker = open_tracker(options.tracker if world.main else None, folder, identity, offline=options.offline)
    notes = {"teacher_revision": teacher.revision, **chosen, "real_images": _facts(data, real)}
    record = Record(folder, identity, notes, _recorded(options, folder, "lengths") or [])
    if world.main:  # nothing is written before all that may be refused was looked at
        if not options.resume:
            CheckpointStore(folder / "checkpoints").clear()
            exporter.forget()
        record.write()
    world.wait()
    pace = _pace(options, total, task, record, world, console, stop)
    with exact_if_fp32(device, options.precision):
        _train(options, task, total, exporter, tracker, world, console, stop, pace)


def _pace(
    options: DistillOptions, total: int | None, task: Distillation, record: Record, world: World, console: Console,
    stop: StopRequest,
) -> Pace | None:  # fmt: skip
    """The clock of this session; None without `--minutes`."""
    from gsd_cli.core.pace import Pace

    if options.minutes is None:
        return None

    def settle(step: int, length: int) -> None:
        task.set_length(length)
        record.settle(step, length, write=world.main)
        stop.resume = _resume(options.model_copy(update={"minutes": None, "steps": length}), record.folder)
        console.say(f"{length:,} steps fit into {options.minutes:g} minutes, {step:,} of them are done")

    return Pace(60 * options.minutes, stop.begun, settles=total is None, on_length=settle)


def _resume(options: DistillOptions, folder: Path) -> str:
    """The command that goes on."""
    return shlex.join(["gsd", "distill", "--teacher", options.teacher, *_changed(options), "-o", str(folder)])


def _train(
    options: DistillOptions, task: Distillation, total: int | None, exporter: Exporter, tracker: Tracker, world: World,
    console: Console, stop: StopRequest, pace: Pace | None,
) -> None:  # fmt: skip
    """Train to the end, to a signal or until the time is up, and leave the generators of what was trained."""
    from gsd_cli.commands.fitting import fit
    from gsd_cli.core.profiling import ProfiledTask

    folder = exporter.folder
    driven: Task = task
    if options.profile is not None and world.main:
        driven = ProfiledTask(task, task.device, options.profile, console.say)
    try:
        last = fit(
            driven, total, folder, _cadence(options), "distilling", console, stop, world, tracker, pace,
            on_evaluation=lambda report: exporter.keep_best(task.average, report),
            on_rehearsal=lambda: exporter.rehearse(task.average) if world.main else None,
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
    if (told := shorter_than_asked(last, pace)) is not None:
        console.say(told)
    world.wait()


def _cadence(options: DistillOptions) -> Cadence:
    """How often the run measures and saves. An `--eval-every` that is not the preset's is obeyed whatever it costs."""
    from gsd_cli.core.standing import Cadence

    preset = PRESETS[options.preset].get("eval_every", DistillOptions.model_fields["eval_every"].default)
    share = EVALUATING if options.eval_every == preset else math.inf
    every = max(1, round(options.eval_every * 1000 / options.batch_size))
    return Cadence(every, evaluate_share=share, checkpoint_share=SAVING)


def _compare_with_best(folder: Path, exporter: Exporter, console: Console) -> None:
    last = read_card(folder / "generator").get("figures", {}).get("fd")
    if last is not None and exporter.best < last:
        best = folder / "best"
        console.say(f"{exporter.figure} was {exporter.best:.4g} at its best: {best}; it is {last:.4g} at the end")


def _judges(options: DistillOptions) -> bool:
    """Whether real images are looked at: by a discriminator, or by an isometric form that takes their clusters."""
    fitted = options.irl in FITTED and options.irl_weight != 0
    return fitted or _ratio(options, choose_data(options)) > 0


def _ratio(options: DistillOptions, data: DistillData) -> float:
    """What `--adversarial` comes to with these real images."""
    return options.adversarial_ratio(real=data.origin != "none")


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


def total_steps(options: DistillOptions, data: DistillData) -> int | None:
    """The length of the run in generator steps; None where it is what fits into `--minutes`."""
    if options.steps is not None:
        return options.steps
    if options.minutes is not None and options.kimg is None and options.epochs is None:
        return None
    images = 1000 * (options.kimg or 0) if options.epochs is None else options.epochs * data.epoch
    return max(1, round(images / options.batch_size))


def _recorded(options: DistillOptions, folder: Path, key: str) -> Any:
    """What the run that is resumed noted in options.json; None where it noted nothing."""
    path = folder / "options.json"
    return read_object(path).get(key) if options.resume and path.exists() else None


def _precision(
    options: DistillOptions, folder: Path, teacher: Teacher, device: Any, world: World, console: Console
) -> str:
    """What `--precision` comes to, the same in all processes; what a resumed run chose at its start, it keeps."""
    recorded = _recorded(options, folder, "precision")
    if options.precision == "auto" and recorded is not None:
        return recorded
    import torch

    from gsd_cli.core.denoiser import per_image
    from gsd_cli.core.device import choose_precision

    net = copy.deepcopy(teacher.denoiser).to(device).requires_grad_(True)
    x = torch.zeros(min(options.batch_size, options.micro_batch or TRIED, TRIED), *net.shape, device=device)
    labels = torch.zeros(len(x), dtype=torch.long, device=device) if net.classes else None

    def train() -> None:
        net(x, per_image(1.0, x), labels).float().square().mean().backward()

    chosen, gain = choose_precision(options.precision, device, train)
    if options.precision == "auto" and world.any(chosen == "fp32"):
        chosen = "fp32"
    if chosen != "fp32" and gain == gain:
        console.say(f"precision: {chosen}, {gain:.1f} times as fast as fp32 here")
    return chosen


def _noise_device(options: DistillOptions, folder: Path, device: Any) -> str:
    """What `--noise-device` comes to; a resumed run goes on with the numbers of its start."""
    from gsd_cli.core.draws import resolve_kind

    recorded = _recorded(options, folder, "noise_device")
    return resolve_kind(recorded if options.noise_device == "auto" and recorded else options.noise_device, device)


def _identity(options: DistillOptions) -> dict[str, Any]:
    """What a resumed run must agree on: the mathematics and the teacher."""
    settings = {name: getattr(options, name) for name in DistillSettings.model_fields if name not in _MAY_CHANGE}
    settings["adversarial"] = _ratio(options, choose_data(options))
    return {"teacher": options.teacher, "revision": options.revision, **settings}


def _idle(options: DistillOptions) -> set[str]:
    """The settings that nothing asks: they may differ, in a run from before a default changed."""
    idle = set() if _ratio(options, choose_data(options)) else _OF_DISCRIMINATOR
    if options.irl == "off" or options.irl_weight == 0:
        return idle | {"irl_weight", "irl_ratio", "irl_every", "irl_phi", "irl_gradient", "tau_min", "tau_max"}
    return idle | ({"irl_ratio"} if options.irl_weight != "auto" or options.sidl_weight == 0 else set())


def _decayed(options: DistillOptions, folder: Path, total: int | None) -> bool:
    """Whether a run that now gets another length has lowered its learning rate for the one it had."""
    before = _recorded(options, folder, "total_steps")
    if not options.lr_decay or before in (None, total):
        return False
    done = max(
        (int(path.name.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*[0-9]")), default=0
    )
    return done > (1 - options.lr_decay) * min(total or before, before)


def _in_todays_terms(record: dict[str, Any]) -> dict[str, Any]:
    """A run's record, with what older versions called otherwise: before there were heads, `auto` noise was `ddpm`."""
    if "discriminator_lr" in record:
        return record
    earlier = {"noise": "ddpm"} if record.get("noise", "auto") == "auto" else {}
    return {**record, **earlier, "adversarial": "another kind" if record.get("adversarial") else 0.0}


def _changed(options: DistillOptions) -> list[str]:
    """The flags that a resume command must repeat."""
    skip = {"teacher", "output", "resume", "force", "profile"}
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


def _check_options(options: DistillOptions, folder: Path, total: int | None) -> bool:
    """Whether the run is finished; one that gets more minutes is not. Raises UsageError (exit 2) naming keys that
    differ."""
    path = folder / "options.json"
    if not path.exists() or not options.resume:
        return False
    before = {**DistillSettings().model_dump(), **_BEFORE, **_in_todays_terms(read_object(path))}
    now = {**_identity(options), "total_steps": total}
    # a length may change: nothing in the past depends on it but the warm-up of the isometric weight and a decay
    free = _idle(options) | {"total_steps"}
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
    if total is None:
        return False
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
