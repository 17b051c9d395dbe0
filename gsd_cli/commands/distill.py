"""gsd distill: a teacher becomes a one-step generator."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gsd_cli.console import Console, Result
from gsd_cli.errors import GsdError, Stopped, UsageError
from gsd_cli.interrupts import StopRequest
from gsd_cli.options import DistillOptions, DistillSettings
from gsd_cli.paths import RUNS, cache_dir, read_json, require_writable, write_json
from gsd_cli.registry import TEACHERS
from gsd_cli.table import Table

if TYPE_CHECKING:
    from gsd_cli.core.distillation import Distillation
    from gsd_cli.core.phi import PhiSources
    from gsd_cli.core.teachers import Teacher
    from gsd_cli.metrics.evaluation import Evaluation

DEFAULT_EPOCH = 50_000
_MAY_CHANGE = {"precision", "micro_batch"}


def plan(options: DistillOptions) -> list[str]:
    """What a run would write."""
    if options.list_teachers:
        return ["lists the teachers known by name"]
    from gsd_cli.estimate import distillation

    steps = total_steps(options)
    images = steps * options.batch_size
    return [
        f"{options.teacher}: {steps:,} steps of batch {options.batch_size} = {images:,} images",
        *distillation(options.teacher, images),
        f"writes {run_folder(options)}/: generator/ samples/ metrics.jsonl curves.png options.json checkpoints/",
    ]


def run(options: DistillOptions, console: Console, stop: StopRequest) -> Result:
    """Start or continue a run; its generator/ is the result."""
    if options.list_teachers:
        return list_teachers()
    folder, total = run_folder(options), total_steps(options)
    require_writable(folder, folder=True)
    finished = _check_options(options, folder, total)
    if finished:
        console.say(f"nothing to do: {folder} is finished; --no-resume starts again")
        return _result(folder)
    console.say(f"run folder: {folder}")
    stop.resume = shlex.join(["gsd", "distill", "--teacher", options.teacher, *_changed(options), "-o", str(folder)])

    from gsd_cli.commands.fitting import fit
    from gsd_cli.commands.loading import open_teacher
    from gsd_cli.core.checkpoint import CheckpointStore
    from gsd_cli.core.device import resolve_device
    from gsd_cli.core.distillation import Distillation
    from gsd_cli.core.phi import build_phi
    from gsd_cli.core.world import join_world

    device = resolve_device(options.device)
    world = join_world(device)
    revision = options.revision or _recorded_revision(options, folder)
    teacher = open_teacher(options.teacher, console, offline=options.offline, revision=revision)
    if world.main:
        if not options.resume:
            CheckpointStore(folder / "checkpoints").clear()
        identity = {**_identity(options), "total_steps": total, "teacher_revision": teacher.revision}
        write_json(folder / "options.json", identity)
    world.wait()
    evaluation = _evaluation(options, teacher, folder, device, console)
    phi = build_phi(options.irl_phi, _phi_sources(options, teacher, device))
    task = Distillation(teacher.denoiser, options, total, device, evaluation, phi, world)
    every = max(1, round(options.eval_every * 1000 / options.batch_size))
    try:
        fit(task, total, folder, every, "distilling", console, stop, world)
    except Stopped:
        if world.main:
            _export(options, teacher, task, evaluation, folder, total)
        raise
    if world.main:
        _export(options, teacher, task, evaluation, folder, total)
    world.wait()
    return _result(folder)


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
    revision: str | None = read_json(path).get("teacher_revision")
    return revision


def _identity(options: DistillOptions) -> dict[str, Any]:
    """What a resumed run must agree on: the mathematics and the teacher."""
    settings = {name: getattr(options, name) for name in DistillSettings.model_fields if name not in _MAY_CHANGE}
    return {"teacher": options.teacher, "revision": options.revision, **settings}


def _changed(options: DistillOptions) -> list[str]:
    """The flags that a resume command must repeat."""
    skip = {"teacher", "output", "resume", "force"}
    flags: list[str] = []
    for name in sorted(options.model_fields_set - skip):
        value = getattr(options, name)
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
    # a run from before an option existed was made with its default
    before = {**DistillSettings().model_dump(), **read_json(path)}
    now = {**_identity(options), "total_steps": total}
    # a finished length may grow: nothing in the past depends on it but the warm-up of the weight
    differing = [key for key in now if key != "total_steps" and before.get(key) != now[key]]
    if differing and not options.force:
        changes = ", ".join(f"{key} ({before.get(key)} -> {now[key]})" for key in differing)
        raise UsageError(
            [f"{folder} was started with other options: {changes}"],
            hint="use its options, another folder with -o, --no-resume to start again, or --force to go on",
        )
    card = folder / "generator" / "gsd.json"
    return card.exists() and read_json(card).get("steps", 0) >= total and not differing


def _evaluation(options: DistillOptions, teacher: Teacher, folder: Path, device: Any, console: Console) -> Evaluation:
    """The measures at hand: bundled or given features and their reference, else the teacher's on --data."""
    from gsd_cli.data.archive import ImageArchive
    from gsd_cli.metrics.baselines import reference_statistics
    from gsd_cli.metrics.evaluation import Evaluation
    from gsd_cli.metrics.features import Extractor, TeacherFeatures, classifier_features, features_folder
    from gsd_cli.metrics.reference import data_statistics, require_same_shape

    teacher.denoiser.to(device)
    autoencoder = teacher.autoencoder.to(device)
    data, features = _data(options), _features(options) or teacher.features
    extractor: Extractor = TeacherFeatures(teacher.denoiser, autoencoder)
    reference = None
    if features is not None:
        extractor = classifier_features(features, device)
    if data is not None:
        require_same_shape(ImageArchive(data), teacher.image_shape)
        reference = data_statistics(data, extractor, device, options.batch_size)
    elif features is not None:
        reference, _ = reference_statistics(None, features_folder(features), extractor)
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


def _export(
    options: DistillOptions, teacher: Teacher, task: Distillation, evaluation: Evaluation, folder: Path, total: int
) -> None:
    """The moving average as a generator folder, and the curves."""
    from gsd_cli.core.card import generator_card
    from gsd_cli.core.generator import Generator, save_generator
    from gsd_cli.core.training import read_metrics
    from gsd_cli.metrics.curves import draw_curves
    from gsd_cli.versions import versions

    rows = read_metrics(folder / "metrics.jsonl")
    extractor = evaluation.extractor
    figure = extractor.figure if extractor else "FD"
    last = rows[-1] if rows else {"step": 0}
    card = {
        "kind": "generator",
        "teacher": options.teacher,
        "teacher_source": teacher.source,
        "teacher_revision": teacher.revision,
        "features": _features(options) or teacher.features,
        "classes": list(teacher.class_names),
        "preset": options.preset,
        "settings": {**_identity(options), "total_steps": total},
        "steps": last["step"],
        "images": last.get("images", 0),
        "figures": {key: last[key] for key in ("fd", "speed_cv", "spearman", "pair_distance") if key in last},
        "figure_name": figure,
        "eval_samples": options.eval_samples,
        "versions": versions(),
    }
    half = options.weights == "fp16"
    average = Generator(task.average.denoiser, task.average.sigma_init, teacher.autoencoder)
    save_generator(average, folder / "generator", card, generator_card(card), half=half)
    draw_curves(folder / "metrics.jsonl", folder / "curves.png", figure)


def _result(folder: Path) -> Result:
    card = read_json(folder / "generator" / "gsd.json")
    if not isinstance(card, dict):
        raise GsdError(f"{folder / 'generator' / 'gsd.json'} is damaged")
    return Result([str(folder / "generator")], {"images": card["images"], **card["figures"]})


def list_teachers() -> Result:
    """The teachers known by name: what they are, where from, whether they are at hand."""
    from gsd_cli.core.hub import cached

    rows, facts = [], {}
    for name, entry in TEACHERS.items():
        at_hand = "bundled" if entry.hub is None else "cached" if cached(entry.hub) else "no"
        source = entry.hub or "this package"
        millions = f"{entry.parameters / 1e6:.1f} M"
        rows.append([name, f"{entry.size} x {entry.size}", millions, entry.licence, source, at_hand])
        facts[name] = {**asdict(entry), "at_hand": at_hand}
    notes = [f"{name}: {entry.caution}" for name, entry in TEACHERS.items() if entry.caution]
    notes.append("Any other: --teacher FOLDER or --teacher OWNER/NAME, a DDPM in diffusers format.")
    columns = ["teacher", "pictures", "parameters", "licence", "source", "at hand"]
    return Result(list(TEACHERS), {"teachers": facts}, Table("Teachers", columns, rows, notes))
