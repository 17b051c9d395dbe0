"""gsd distill: a teacher becomes a one-step generator."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import torch

from gsd_cli.base.atomic import require_writable
from gsd_cli.base.console import Result
from gsd_cli.base.errors import Stopped
from gsd_cli.base.session import Session
from gsd_cli.base.storage import require_room
from gsd_cli.catalogue.cost import disk_needed, growth
from gsd_cli.catalogue.find import read_card
from gsd_cli.compute.device import choose_precision, exact_if_fp32, resolve_device
from gsd_cli.compute.distributed import World, join_world
from gsd_cli.core.distillation.draws import resolve_kind
from gsd_cli.core.distillation.export import Exporter
from gsd_cli.core.distillation.inputs import choose_data, describe, uses_images
from gsd_cli.core.distillation.open_data import OpenData, open_images, with_samples
from gsd_cli.core.distillation.real_images import RealImages
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
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.models.denoiser import per_image
from gsd_cli.core.models.feature_maps import FeatureMapSources, build_feature_map
from gsd_cli.core.models.open import open_teacher
from gsd_cli.core.models.teacher import Teacher
from gsd_cli.core.training.checkpoint import CheckpointStore
from gsd_cli.core.training.drive import fit
from gsd_cli.core.training.loop import Task
from gsd_cli.core.training.pace import UNSETTLED, Pace
from gsd_cli.core.training.profiling import ProfiledTask
from gsd_cli.core.training.report import Cadence
from gsd_cli.core.training.trackers import Tracker, open_tracker
from gsd_cli.metrics.run_evaluation import Measure, build_evaluation, choose_measure, describe_measure
from gsd_cli.options import PRESETS, DistillOptions

EVALUATING, SAVING = 0.05, 0.02
"""Shares of the steps' time that evaluations and checkpoints may take."""
TRIED = 32
"""Images in the passes that choose a precision, at most."""


def run(options: DistillOptions, session: Session) -> Result:
    """Start or continue a run; its generator/ is the result."""
    folder, data = run_folder(options), OpenData(choose_data(options))
    total = total_steps(options, data.epoch if options.epochs is not None else None)
    require_writable(folder, folder=True)
    needed = disk_needed(options.teacher, growth(options.student_width, options.student_depth))
    if not folder.exists() and needed is not None:
        require_room(folder, needed)
    finished = check_options(options, folder, total)
    if finished:
        session.say(f"nothing to do: {folder} is finished; --no-resume starts again")
        return _result(folder)
    session.say(f"run folder: {folder}")
    if has_decayed(options, folder, total):
        session.warn(
            "the learning rate had begun to fall towards the run's old end; it is set for the new one from here on"
        )
    session.stop.resume = resume_command(options, folder)
    _distil(options, data, folder, total, session)
    return _result(folder)


def _distil(options: DistillOptions, data: OpenData, folder: Path, total: int | None, session: Session) -> None:
    """Open what the run needs, refuse what does not fit, then train."""
    device = resolve_device(options.device)
    world = join_world(device, session)
    # a teacher that moved on the hub must not change under a run
    revision = options.revision or recorded(options, folder, "teacher_revision")
    teacher = open_teacher(options.teacher, session, revision)
    agreed = {**identity(options), "total_steps": total}
    measure = choose_measure(options, data, teacher, device)
    data = _with_samples(options, data, measure, teacher, device, world, session)
    real = open_images(data, teacher, device, session) if uses_images(options) else None
    _say_images(options, data, real, measure, folder, session)
    evaluation = build_evaluation(options, teacher, data, measure, folder, device, world)
    phi = build_feature_map(options.irl_phi, _phi_sources(data, teacher, device, session))
    chosen = {
        "precision": _precision(options, folder, teacher, device, world, session),
        "noise_device": _noise_device(options, folder, device),
    }
    options = options.model_copy(update=chosen)
    pixels = teacher.autoencoder.net is None
    task = Distillation(teacher.denoiser, options, total or UNSETTLED, device, evaluation, phi, world, real, pixels)
    exporter = Exporter(options, teacher, folder, agreed, measure.features, measure.figure)
    tracker = open_tracker(options.tracker if world.main else None, folder, agreed, offline=session.offline)
    origin = {"teacher_revision": teacher.revision, "teacher_mark": folder_mark(options.teacher)}
    notes = {**origin, **chosen, "real_images": _facts(data, real)}
    record = Record(folder, agreed, notes, recorded(options, folder, "lengths") or [])
    if world.main:  # nothing is written before all that may be refused was looked at
        if not options.resume:
            CheckpointStore(folder / "checkpoints").clear()
            exporter.forget()
        record.write()
    world.wait()
    pace = _pace(options, total, task, record, world, session)
    with exact_if_fp32(device, options.precision):
        _train(options, task, total, exporter, tracker, world, session, pace)


def _pace(
    options: DistillOptions, total: int | None, task: Distillation, record: Record, world: World, session: Session,
) -> Pace | None:  # fmt: skip
    """The clock of this session; None without `--minutes`."""
    if options.minutes is None:
        return None

    def settle(step: int, length: int) -> None:
        task.set_length(length)
        record.settle(step, length, write=world.main)
        session.stop.resume = resume_command(
            options.model_copy(update={"minutes": None, "steps": length}), record.folder
        )
        session.say(f"{length:,} steps fit into {options.minutes:g} minutes, {step:,} of them are done")

    return Pace(60 * options.minutes, session.stop.begun, settles=total is None, on_length=settle)


def _train(
    options: DistillOptions, task: Distillation, total: int | None, exporter: Exporter, tracker: Tracker, world: World,
    session: Session, pace: Pace | None,
) -> None:  # fmt: skip
    """Train to the end, to a signal or until the time is up, and leave the generators of what was trained."""
    folder = exporter.folder
    driven: Task = task
    if options.profile is not None and world.main:
        driven = ProfiledTask(task, task.device, options.profile, session.say)
    try:
        last = fit(
            driven, total, folder, _cadence(options), "distilling", session, world, tracker, pace,
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
        _compare_with_best(folder, exporter, session)
    if (message := shorter_than_asked(last, pace)) is not None:
        session.say(message)
    world.wait()


def _cadence(options: DistillOptions) -> Cadence:
    """How often the run measures and saves. An `--eval-every` that is not the preset's is obeyed whatever it costs."""

    preset = PRESETS[options.preset].get("eval_every", DistillOptions.model_fields["eval_every"].default)
    share = EVALUATING if options.eval_every == preset else math.inf
    every = max(1, round(options.eval_every * 1000 / options.batch_size))
    return Cadence(every, evaluate_share=share, checkpoint_share=SAVING)


def _compare_with_best(folder: Path, exporter: Exporter, session: Session) -> None:
    last = read_card(folder / "generator").get("figures", {}).get("fd")
    if last is not None and exporter.best < last:
        best = folder / "best"
        session.say(f"{exporter.figure} was {exporter.best:.4g} at its best: {best}; it is {last:.4g} at the end")


def _with_samples(
    options: DistillOptions, data: OpenData, measure: Measure, teacher: Teacher, device: Any, world: World,
    session: Session,
) -> OpenData:  # fmt: skip
    """`data` with the teacher's samples, where they are asked for and something looks at them."""
    if data.choice.origin != "teacher":
        return data
    if not uses_images(options) and measure.against != "samples":
        session.warn("--data teacher: nothing uses the teacher's samples, for there is no discriminator")
        return data
    data = with_samples(data, options, teacher, device, session, main=world.main)
    world.wait()
    return data


def _say_images(
    options: DistillOptions, data: OpenData, real: RealImages | None, measure: Measure, folder: Path,
    session: Session,
) -> None:  # fmt: skip
    """Which real images are used, what is measured against, and whether a resumed run began with others."""
    session.say(describe(data.choice, shown=real is not None, count=None if real is None else len(real)))
    if data.choice.origin == "teacher" or measure.against == "nothing":
        session.say(describe_measure(measure, data))
    before, now = recorded(options, folder, "real_images"), _facts(data, real)
    if before not in (None, now):
        session.warn(f"the run began with other real images: {before}, now {now}")


def _facts(data: OpenData, real: RealImages | None) -> str | None:
    """What options.json notes of the real images."""
    return None if real is None else f"{len(real)} {data.choice.origin}"


def _precision(
    options: DistillOptions, folder: Path, teacher: Teacher, device: Any, world: World, session: Session
) -> str:
    """What `--precision` comes to, the same in all processes; what a resumed run chose at its start, it keeps."""
    before: str | None = recorded(options, folder, "precision")
    if options.precision == "auto" and before is not None:
        return before

    net = copy.deepcopy(teacher.denoiser).to(device).requires_grad_(True)
    x = torch.zeros(min(options.batch_size, options.micro_batch or TRIED, TRIED), *net.shape, device=device)
    labels = torch.zeros(len(x), dtype=torch.long, device=device) if net.classes else None

    def train() -> None:
        net(x, per_image(1.0, x), labels).float().square().mean().backward()

    chosen, gain = choose_precision(options.precision, device, train)
    if options.precision == "auto" and world.any(chosen == "fp32"):
        chosen = "fp32"
    if chosen != "fp32" and gain == gain:
        session.say(f"precision: {chosen}, {gain:.1f} times as fast as fp32 here")
    return chosen


def _noise_device(options: DistillOptions, folder: Path, device: Any) -> str:
    """What `--noise-device` comes to; a resumed run goes on with the numbers of its start."""
    before = recorded(options, folder, "noise_device")
    return resolve_kind(before if options.noise_device == "auto" and before else options.noise_device, device)


def _phi_sources(data: OpenData, teacher: Teacher, device: Any, session: Session) -> FeatureMapSources:
    """What the isometric term's features may need; without real data a standard deviation of 1/2 a channel."""
    std = [0.5] * teacher.image_shape[0]
    if (images := data.measured) is not None:
        variance = images.record.get("variance", [0.25] * len(std))
        std = [max(v, 1e-6) ** 0.5 for v in variance]
    denoiser, autoencoder = teacher.denoiser.to(device), teacher.autoencoder.to(device)
    return FeatureMapSources(denoiser, autoencoder, std, session.cache, session.offline, device)


def _result(folder: Path) -> Result:
    card = read_card(folder / "generator")
    return Result([str(folder / "generator")], {"images": card["images"], **card["figures"]})
