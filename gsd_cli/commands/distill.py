"""gsd distill: train a generator of one step, or of a few, from a teacher."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from gsd_cli.base.atomic import require_writable
from gsd_cli.base.console import Result
from gsd_cli.base.errors import Stopped, UsageError
from gsd_cli.base.launcher import require_others
from gsd_cli.base.session import Session
from gsd_cli.base.text import plural
from gsd_cli.catalogue.find import read_card
from gsd_cli.catalogue.run_layout import BEST, CHECKPOINTS, GENERATOR, METRICS_LOG
from gsd_cli.commands.deliver import deliver
from gsd_cli.compute.device import choose_precision, exact_if_fp32, resolve_device
from gsd_cli.compute.distributed import World, join_world
from gsd_cli.core.distillation.draws import resolve_noise_device
from gsd_cli.core.distillation.export import Exporter
from gsd_cli.core.distillation.inputs import choose_data, choose_prompts, describe_images, uses_images
from gsd_cli.core.distillation.open_data import OpenData, add_teacher_samples, open_real_images
from gsd_cli.core.distillation.real_images import RealImages
from gsd_cli.core.distillation.refinement import RefinementDistillation
from gsd_cli.core.distillation.run_folder import (
    Record,
    collect_identity,
    count_steps,
    describe_early_end,
    fingerprint_teacher,
    has_decayed,
    read_finished,
    read_recorded,
    read_result,
    require_disk,
    resolve_run_folder,
    resume_command,
)
from gsd_cli.core.distillation.start import FAKE_WARMUP, open_start
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.distillation.teacher_reading import add_size, settle_reading
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.feature_maps import FeatureMapSources, build_feature_map
from gsd_cli.core.models.fingerprint import folder_fingerprint, weights_fingerprint
from gsd_cli.core.models.generator import Generator, Model
from gsd_cli.core.models.hub_upload import require_login
from gsd_cli.core.models.open import FEWEST_STEPS, open_teacher
from gsd_cli.core.models.teacher import Teacher
from gsd_cli.core.training.checkpoint import CheckpointStore
from gsd_cli.core.training.drive import run_training
from gsd_cli.core.training.log import read_metrics
from gsd_cli.core.training.loop import Task
from gsd_cli.core.training.pace import UNSETTLED, Pace
from gsd_cli.core.training.profiling import ProfiledTask
from gsd_cli.core.training.report import Cadence
from gsd_cli.core.training.trackers import Tracker, open_tracker
from gsd_cli.metrics.evaluation import Evaluation
from gsd_cli.metrics.run_evaluation import RunDistance, build_evaluation, choose_distance, describe_distance
from gsd_cli.options import PRESETS, DistillOptions

EVALUATION_SHARE, CHECKPOINT_SHARE = 0.05, 0.02
"""The time that evaluations and checkpoints may take, as a share of the time of the steps."""
MAX_TRIAL_IMAGES = 32
"""The most images in the trial passes that choose a precision."""

AnyDistillation = Distillation | RefinementDistillation


@dataclass(frozen=True)
class Run:
    """One distillation: its options, folder, device, teacher, and the processes (world) that train it."""

    options: DistillOptions
    folder: Path
    session: Session
    device: torch.device
    world: World
    teacher: Teacher

    def recorded(self, key: str) -> Any:
        """A value from the options.json of the resumed run; None if there is none."""
        return read_recorded(self.options, self.folder, key)


def run(options: DistillOptions, session: Session) -> Result:
    """Start or resume a run. The result is its folder generator/."""
    if options.shard:
        require_others("--shard")
    folder, data = resolve_run_folder(options), OpenData(choose_data(options))
    total = count_steps(options, data.epoch if options.epochs is not None else None)
    require_writable(folder, folder=True)
    if options.export is not None:
        require_writable(options.export, folder=False)
    require_disk(options, folder)
    if options.publish:
        require_login(str(options.push_to_hub))
    if (finished := read_finished(options, folder, total, session.say)) is not None:
        return deliver(options, folder, total, finished, session)
    session.say(f"run folder: {folder}")
    if has_decayed(options, folder, total):
        session.warn(
            "the learning rate was already falling towards the end of the old length; it now follows the new length"
        )
    session.stop.resume = resume_command(options, folder)
    device = resolve_device(options.device)
    world = join_world(device, session)
    # a new revision on the hub must not change the teacher of a run
    revision = options.revision or read_recorded(options, folder, "teacher_revision")
    assume = options.assume or read_recorded(options, folder, "teacher_reading")
    assume = add_size(options.teacher, assume, data)
    teacher = open_teacher(options.teacher, session, revision, assume, undecided=True, prompts=choose_prompts(options))
    teacher = settle_reading(teacher, data, device, session, world)
    _distil(Run(options, folder, session, device, world, teacher), data, total)
    return deliver(options, folder, total, read_result(folder), session)


def _distil(run: Run, data: OpenData, total: int | None) -> None:
    """Open the data and networks of the run, refuse what does not fit, then train."""
    options, folder, session = run.options, run.folder, run.session
    device, world, teacher = run.device, run.world, run.teacher
    agreed = {**collect_identity(options), "total_steps": total}
    distance = choose_distance(options, data, teacher, device)
    data = _add_samples(run, data, distance)
    real = open_real_images(data, teacher, device, session) if uses_images(options) else None
    _announce_images(run, data, real, distance)
    evaluation = build_evaluation(options, teacher, data, distance, folder, device, world, session.doing)
    # a refinement needs none; a sharded distillation takes its own copy of the teacher, in pieces: this one is whole
    needless = options.refine is not None or (options.shard and options.irl_phi == "teacher")
    phi = None if needless else build_feature_map(options.irl_phi, _collect_sources(run, data))
    chosen = {"precision": _choose_precision(run), "noise_device": _choose_noise_device(run)}
    start = open_start(options.start, teacher, options)
    waits = start is not None and options.refine is None and options.fake_warmup is None
    warm_up = {"fake_warmup": FAKE_WARMUP} if waits else {}
    run = replace(run, options=options.model_copy(update=chosen | warm_up))
    length, settings, first = total or UNSETTLED, agreed, dict[str, Any]()
    if start is not None and (options.refine is not None or start.generator.later is not None):
        first = {"start_mark": _mark_start(run, start)}  # no checkpoint holds the first call's network
    if options.refine is not None and start is not None:  # the options demand both
        settings = agreed | {"guidance": start.guidance}  # the teacher's, which refines
        _announce_refinement(run, start)
        task: AnyDistillation = RefinementDistillation(
            start.generator, teacher.denoiser, run.options, length, device, evaluation, world, start.teacher_guidance
        )
    else:
        pixels, begins = teacher.autoencoder.net is None, None if start is None else start.generator
        task = Distillation(
            teacher.denoiser, run.options, length, device, evaluation, phi, world, real, pixels, begins
        )  # fmt: skip
        _announce_start(run, start, total)
        _announce_guidance(run, evaluation)
    exporter = Exporter(run.options, teacher, folder, settings, distance.features, distance.figure)
    tracker = open_tracker(options.tracker if world.main else None, folder, agreed, offline=session.offline)
    origin = {"teacher_revision": teacher.revision, "teacher_mark": _mark_teacher(run)}
    origin["teacher_reading"] = teacher.reading
    notes = {**origin, **chosen, **first, "real_images": _summarise_images(data, real)}
    record = Record(folder, agreed, notes, run.recorded("lengths") or [])
    if world.main:  # nothing is written until every check has passed
        if not options.resume:
            CheckpointStore(folder / CHECKPOINTS).clear()
            exporter.discard_best()
        record.write()
    world.wait()
    with exact_if_fp32(device, run.options.precision):
        _train(run, task, total, exporter, tracker, _start_clock(run, total, task, record))


def _train(
    run: Run, task: AnyDistillation, total: int | None, exporter: Exporter, tracker: Tracker, pace: Pace | None
) -> None:
    """Train until the end, a signal, or the end of --minutes; then export the generator."""
    options, session, world = run.options, run.session, run.world
    driven: Task = task

    def export(write: Callable[[Generator], None]) -> None:
        average = task.whole_average()  # gathered from all processes
        if world.main:
            write(average)

    if options.profile is not None and world.main:
        driven = ProfiledTask(task, task.device, options.profile, session.say)
    try:
        last = run_training(
            driven, total, run.folder, _choose_cadence(options), "distilling", session, world, tracker, pace,
            on_evaluation=lambda report: exporter.keep_best(task.whole_average(), report),
            on_rehearsal=lambda: export(exporter.rehearse), figure=exporter.figure,
        )  # fmt: skip
    except Stopped:
        if task.begun or not task.sharded:  # before its first step a process stops alone, and gathers nothing
            export(exporter.export)
        raise
    finally:
        tracker.close()
    export(exporter.export)
    if world.main:
        _say_result(run, exporter)
    if (message := describe_early_end(last, pace)) is not None:
        session.say(message)
    world.wait()


def _start_clock(run: Run, total: int | None, task: AnyDistillation, record: Record) -> Pace | None:
    """The clock of this session; None without `--minutes`."""
    options, session = run.options, run.session
    if options.minutes is None:
        return None

    warned = False

    def settle(step: int, length: int) -> None:
        nonlocal warned
        task.set_length(length)
        record.settle(step, length, write=run.world.main)
        settled = options.model_copy(update={"minutes": None, "steps": length})
        session.stop.resume = resume_command(settled, run.folder)
        session.say(f"{plural(length, 'step')} of training fit into {options.minutes:g} minutes; {step:,} done")
        if length < FEWEST_STEPS and not warned:
            warned = True
            session.warn(
                f"{plural(length, 'step')} change little: give more --minutes, or fewer --eval-samples where "
                "evaluations take the time"
            )

    return Pace(60 * options.minutes, session.stop.begun, settles=total is None, on_length=settle)


def _mark_teacher(run: Run) -> str | None:
    """The fingerprint of the teacher's files, also of those in the hub's cache: a copy of them is the same teacher."""
    own, config = fingerprint_teacher(run.options.teacher), run.teacher.config
    return folder_fingerprint(config.files.folder) if own is None and config is not None else own


def _choose_cadence(options: DistillOptions) -> Cadence:
    """How often the run evaluates and saves. An `--eval-every` other than the preset's has no limit on its time."""
    preset = PRESETS[options.preset].get("eval_every", DistillOptions.model_fields["eval_every"].default)
    share = EVALUATION_SHARE if options.eval_every == preset else math.inf
    every = max(1, round(options.eval_every * 1000 / options.batch_size))
    return Cadence(every, evaluate_share=share, checkpoint_share=CHECKPOINT_SHARE)


# -- images and features ------------------------------------------------------------------------


def _add_samples(run: Run, data: OpenData, distance: RunDistance) -> OpenData:
    """`data`, with the teacher's samples if `--data teacher` asks for them and something uses them."""
    if data.choice.origin != "teacher":
        return data
    if not uses_images(run.options) and distance.against != "samples":
        run.session.warn("--data teacher: nothing uses the teacher's samples, because there is no discriminator")
        return data
    data = add_teacher_samples(data, run.options, run.teacher, run.device, run.session, main=run.world.main)
    run.world.wait("the teacher samples that the first process makes")
    return data


def _announce_images(run: Run, data: OpenData, real: RealImages | None, distance: RunDistance) -> None:
    """Print which real images are used and what distances are measured to; warn if a resumed run had other images."""
    run.session.say(describe_images(data.choice, shown=real is not None, count=None if real is None else len(real)))
    if data.choice.origin == "teacher" or distance.against == "nothing":
        run.session.say(describe_distance(distance, data))
    before, now = run.recorded("real_images"), _summarise_images(data, real)
    if before not in (None, now):
        run.session.warn(f"the run began with other real images: {before}, now {now}")


def _mark_start(run: Run, start: Model) -> str:
    """The fingerprint of the first call's network. Raises UsageError if a resumed run began with another one."""
    mark, before = weights_fingerprint(start.folder), run.recorded("start_mark")
    if before not in (None, mark):
        raise UsageError(
            [f"{start.name} is no longer the generator that {run.folder} began with: its weights differ"],
            hint="restore it, or use another folder with -o, or --no-resume to start again",
        )
    return mark


def _announce_refinement(run: Run, start: Model) -> None:
    """Print what the generator learns."""
    run.session.say(
        f"refinement: {start.name} makes images in one call and the teacher refines them in {run.options.refine}; a "
        "second network learns to do so in one"
    )
    if start.teacher is not None and Path(start.teacher).name != Path(run.options.teacher).name:
        run.session.warn(f"{start.name} was distilled from {start.teacher}, and {run.options.teacher} refines it")


def _announce_start(run: Run, start: Model | None, total: int | None) -> None:
    """Print what of the start is trained, where that is not all of it; warn of a run that ends before it trains it."""
    if start is not None and start.generator.later is not None:
        run.session.say(f"start: the second network of {start.name} is trained; the first call stays as it is")
    waits = 1000 * (run.options.fake_warmup or 0.0)
    if total is not None and (images := total * run.options.batch_size) <= waits:
        run.session.warn(
            f"the first {waits:,.0f} images train the fake score alone (--fake-warmup), and this run has {images:,}: "
            "the generator stays as it is; give more --kimg, or a smaller --fake-warmup"
        )


def _announce_guidance(run: Run, evaluation: Evaluation) -> None:
    """Print what is guided, and warn where its cost, the loss of variety, will not be measured."""
    of_teacher, of_fake = run.options.guidance_scales()
    if of_teacher == 1:
        return
    of = "the teacher" if of_fake == 1 else "the teacher and the fake score"
    run.session.say(f"guidance: {of} by {of_teacher:g}; images become less varied, which recall and coverage show")
    if not evaluation.measures_variety:
        run.session.warn("guidance costs variety, and recall needs real images to be measured: give --data DATA.zip")


def _summarise_images(data: OpenData, real: RealImages | None) -> str | None:
    """The entry for the real images in options.json: their number and origin."""
    return None if real is None else f"{len(real)} {data.choice.origin}"


def _collect_sources(run: Run, data: OpenData) -> FeatureMapSources:
    """What a feature map may be built from. Without real data, the standard deviation of a channel is 1/2."""
    std = [0.5] * run.teacher.image_shape[0]
    if (images := data.measured) is not None:
        variance = images.record.get("variance", [0.25] * len(std))
        std = [max(v, 1e-6) ** 0.5 for v in variance]
    denoiser, autoencoder = run.teacher.denoiser, run.teacher.autoencoder.to(run.device)
    if not run.options.shard:
        denoiser.to(run.device)
    return FeatureMapSources(denoiser, autoencoder, std, run.session.cache, run.session.offline, run.device)


# -- resolving `auto` ---------------------------------------------------------------------------


def _choose_precision(run: Run) -> str:
    """The precision of the run, the same in all processes. A resumed run keeps the one it started with."""
    options = run.options
    before: str | None = run.recorded("precision")
    if options.precision == "auto" and before is not None:
        return before

    @cache
    def copy_teacher() -> Denoiser:
        """Made only where passes are timed: on a CPU, not yet sharded."""
        return copy.deepcopy(run.teacher.denoiser).requires_grad_(True)

    def train() -> None:
        net = copy_teacher()
        images = min(options.batch_size, options.micro_batch or MAX_TRIAL_IMAGES, MAX_TRIAL_IMAGES)
        x = torch.zeros(images, *net.shape)
        net(x, per_image(1.0, x), net.conditions.first(images)).float().square().mean().backward()

    chosen, gain = choose_precision(options.precision, run.device, train)
    if options.precision == "auto" and run.world.any(chosen == "fp32"):
        chosen = "fp32"
    if chosen != "fp32" and not math.isnan(gain):
        run.session.say(f"precision: {chosen}, {gain:.1f} times as fast as fp32 on this machine")
    return chosen


def _choose_noise_device(run: Run) -> str:
    """The device that draws the noise. A resumed run keeps the one it started with, and so its random numbers."""
    asked, before = run.options.noise_device, run.recorded("noise_device")
    return resolve_noise_device(before if asked == "auto" and before else asked, run.device)


# -- the result ---------------------------------------------------------------------------------


def _say_result(run: Run, exporter: Exporter) -> None:
    """Tell the user the last distance, and an earlier snapshot whose distance is smaller."""
    card = read_card(run.folder / GENERATOR)
    last = card.get("figures", {}).get("fd")
    if last is None:
        return
    first = read_metrics(run.folder / METRICS_LOG)[0].get("fd")
    before = "" if first is None else f", {first:.4g} at the start"
    run.session.say(f"{exporter.figure} {last:.4g} after {plural(card['images'], 'image')}{before}")
    if exporter.best < last:
        best = run.folder / BEST
        run.session.say(f"the best {exporter.figure} was {exporter.best:.4g}: {best}; the last is {last:.4g}")
