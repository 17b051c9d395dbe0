"""gsd distill: a teacher becomes a one-step generator."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gsd_cli.base.atomic import require_writable
from gsd_cli.base.console import Console, Result
from gsd_cli.base.errors import Stopped
from gsd_cli.base.signals import StopRequest
from gsd_cli.base.storage import cache_dir, require_room
from gsd_cli.catalogue.cost import disk_needed, growth
from gsd_cli.catalogue.find import read_card
from gsd_cli.cli.distill_plan import plan as plan  # the command's dry run
from gsd_cli.cli.teacher_list import list_teachers
from gsd_cli.core.distillation.inputs import DistillData, choose_data, describe, open_images, uses_images, with_samples
from gsd_cli.core.distillation.run_folder import (
    check_options,
    folder_mark,
    has_decayed,
    identity,
    recorded,
    resume_command,
    run_folder,
    total_steps,
)
from gsd_cli.core.distillation.run_record import Record, shorter_than_asked
from gsd_cli.metrics.run_evaluation import Measure, build_evaluation, choose_measure, describe_measure
from gsd_cli.options import PRESETS, DistillOptions

if TYPE_CHECKING:
    from gsd_cli.compute.distributed import World
    from gsd_cli.core.distillation.export import Exporter
    from gsd_cli.core.distillation.real_images import RealImages
    from gsd_cli.core.distillation.step import Distillation
    from gsd_cli.core.models.feature_maps import PhiSources
    from gsd_cli.core.models.teacher import Teacher
    from gsd_cli.core.training.loop import Task
    from gsd_cli.core.training.pace import Pace
    from gsd_cli.core.training.report import Cadence
    from gsd_cli.core.training.trackers import Tracker

EVALUATING, SAVING = 0.05, 0.02
"""Shares of the steps' time that evaluations and checkpoints may take."""
TRIED = 32
"""Images in the passes that choose a precision, at most."""


def run(options: DistillOptions, console: Console, stop: StopRequest) -> Result:
    """Start or continue a run; its generator/ is the result."""
    if options.list_teachers:
        return list_teachers()
    folder, data = run_folder(options), choose_data(options)
    total = total_steps(options, data)
    require_writable(folder, folder=True)
    needed = disk_needed(options.teacher, growth(options.student_width, options.student_depth))
    if not folder.exists() and needed is not None:
        require_room(folder, needed)
    finished = check_options(options, folder, total)
    if finished:
        console.say(f"nothing to do: {folder} is finished; --no-resume starts again")
        return _result(folder)
    console.say(f"run folder: {folder}")
    if has_decayed(options, folder, total):
        console.warn(
            "the learning rate had begun to fall towards the run's old end; it is set for the new one from here on"
        )
    stop.resume = resume_command(options, folder)
    _distil(options, data, folder, total, console, stop)
    return _result(folder)


def _distil(
    options: DistillOptions, data: DistillData, folder: Path, total: int | None, console: Console, stop: StopRequest
) -> None:
    """Open what the run needs, refuse what does not fit, then train."""
    from gsd_cli.compute.device import exact_if_fp32, resolve_device
    from gsd_cli.compute.distributed import join_world
    from gsd_cli.core.distillation.export import Exporter
    from gsd_cli.core.distillation.step import Distillation
    from gsd_cli.core.models.feature_maps import build_phi
    from gsd_cli.core.models.open import open_teacher
    from gsd_cli.core.training.checkpoint import CheckpointStore
    from gsd_cli.core.training.pace import UNSETTLED
    from gsd_cli.core.training.trackers import open_tracker

    device = resolve_device(options.device)
    world = join_world(device, stop, console)
    # a teacher that moved on the hub must not change under a run
    revision = options.revision or recorded(options, folder, "teacher_revision")
    teacher = open_teacher(options.teacher, console, offline=options.offline, revision=revision)
    agreed = {**identity(options), "total_steps": total}
    measure = choose_measure(options, data, teacher, device)
    data = _with_samples(options, data, measure, teacher, device, world, console, stop)
    real = open_images(data, teacher, device, console, stop) if uses_images(options) else None
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
    exporter = Exporter(options, teacher, folder, agreed, measure.features, measure.figure)
    tracker = open_tracker(options.tracker if world.main else None, folder, agreed, offline=options.offline)
    origin = {"teacher_revision": teacher.revision, "teacher_mark": folder_mark(options.teacher)}
    notes = {**origin, **chosen, "real_images": _facts(data, real)}
    record = Record(folder, agreed, notes, recorded(options, folder, "lengths") or [])
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
    from gsd_cli.core.training.pace import Pace

    if options.minutes is None:
        return None

    def settle(step: int, length: int) -> None:
        task.set_length(length)
        record.settle(step, length, write=world.main)
        stop.resume = resume_command(options.model_copy(update={"minutes": None, "steps": length}), record.folder)
        console.say(f"{length:,} steps fit into {options.minutes:g} minutes, {step:,} of them are done")

    return Pace(60 * options.minutes, stop.begun, settles=total is None, on_length=settle)


def _train(
    options: DistillOptions, task: Distillation, total: int | None, exporter: Exporter, tracker: Tracker, world: World,
    console: Console, stop: StopRequest, pace: Pace | None,
) -> None:  # fmt: skip
    """Train to the end, to a signal or until the time is up, and leave the generators of what was trained."""
    from gsd_cli.core.training.drive import fit
    from gsd_cli.core.training.profiling import ProfiledTask

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
    if (message := shorter_than_asked(last, pace)) is not None:
        console.say(message)
    world.wait()


def _cadence(options: DistillOptions) -> Cadence:
    """How often the run measures and saves. An `--eval-every` that is not the preset's is obeyed whatever it costs."""
    from gsd_cli.core.training.report import Cadence

    preset = PRESETS[options.preset].get("eval_every", DistillOptions.model_fields["eval_every"].default)
    share = EVALUATING if options.eval_every == preset else math.inf
    every = max(1, round(options.eval_every * 1000 / options.batch_size))
    return Cadence(every, evaluate_share=share, checkpoint_share=SAVING)


def _compare_with_best(folder: Path, exporter: Exporter, console: Console) -> None:
    last = read_card(folder / "generator").get("figures", {}).get("fd")
    if last is not None and exporter.best < last:
        best = folder / "best"
        console.say(f"{exporter.figure} was {exporter.best:.4g} at its best: {best}; it is {last:.4g} at the end")


def _with_samples(
    options: DistillOptions, data: DistillData, measure: Measure, teacher: Teacher, device: Any, world: World,
    console: Console, stop: StopRequest,
) -> DistillData:  # fmt: skip
    """`data` with the teacher's samples, where they are asked for and something looks at them."""
    if data.origin != "teacher":
        return data
    if not uses_images(options) and measure.against != "samples":
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
    before, now = recorded(options, folder, "real_images"), _facts(data, real)
    if before not in (None, now):
        console.warn(f"the run began with other real images: {before}, now {now}")


def _facts(data: DistillData, real: RealImages | None) -> str | None:
    """What options.json notes of the real images."""
    return None if real is None else f"{len(real)} {data.origin}"


def _precision(
    options: DistillOptions, folder: Path, teacher: Teacher, device: Any, world: World, console: Console
) -> str:
    """What `--precision` comes to, the same in all processes; what a resumed run chose at its start, it keeps."""
    before: str | None = recorded(options, folder, "precision")
    if options.precision == "auto" and before is not None:
        return before
    import torch

    from gsd_cli.compute.device import choose_precision
    from gsd_cli.core.models.denoiser import per_image

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
    from gsd_cli.core.distillation.draws import resolve_kind

    before = recorded(options, folder, "noise_device")
    return resolve_kind(before if options.noise_device == "auto" and before else options.noise_device, device)


def _phi_sources(options: DistillOptions, data: DistillData, teacher: Teacher, device: Any) -> PhiSources:
    """What the isometric term's features may need; without real data a standard deviation of 1/2 a channel."""
    from gsd_cli.core.models.feature_maps import PhiSources

    std = [0.5] * teacher.image_shape[0]
    if (images := data.measured_images) is not None:
        variance = images.record.get("variance", [0.25] * len(std))
        std = [max(v, 1e-6) ** 0.5 for v in variance]
    denoiser, autoencoder = teacher.denoiser.to(device), teacher.autoencoder.to(device)
    return PhiSources(denoiser, autoencoder, std, cache_dir(options.cache_dir), options.offline, device)


def _result(folder: Path) -> Result:
    card = read_card(folder / "generator")
    return Result([str(folder / "generator")], {"images": card["images"], **card["figures"]})
