"""gsd prepare: images to a data set, statistics, features, a teacher."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gsd_cli.base.atomic import require_writable
from gsd_cli.base.console import Console, Result
from gsd_cli.base.errors import GsdError, UsageError
from gsd_cli.base.signals import StopRequest
from gsd_cli.base.storage import cache_dir
from gsd_cli.catalogue.file_formats import FILE_SUFFIXES
from gsd_cli.options import FitSettings, PrepareOptions

if TYPE_CHECKING:
    from gsd_cli.compute.distributed import World

FEATURE_STEPS = 2000
FEATURES = {"residual": "features", "convnext": "features-2"}
"""What the folder of features beside DATA.zip is called, by --features-net: DATA-features."""
FEW = 512
"""Images that one process prepares before another has started."""


def plan(options: PrepareOptions) -> list[str]:
    """What a run would write."""
    _require_fit(options)
    target = _target(options)
    lines = [f"writes {target} unless it is there"]
    if options.shards:
        lines.append(f"and {options.shards} shards: {target.stem}-000000.tar ...")
    if options.fit_features:
        lines.append(f"trains {options.features_net} features: {_beside(target, FEATURES[options.features_net])}/")
    if options.fit_teacher:
        steps = _fit_settings(options).steps
        lines.append(f"trains a {options.fit_teacher} teacher for {steps} steps: {_beside(target, 'teacher')}/")
    return lines


def run(options: PrepareOptions, console: Console, stop: StopRequest) -> Result:
    """Prepare the data set if it is not there, then fit what was asked for.

    Of several processes the first prepares and measures, all fit the teacher.
    """
    _require_fit(options)
    target = _target(options)
    require_writable(target, folder=False)
    if options.fit_teacher is None:
        return _first_part(options, target, console, stop)
    from gsd_cli.compute.device import resolve_device
    from gsd_cli.compute.distributed import join_world

    world = join_world(resolve_device(options.device), stop, console)
    result = _first_part(options, target, console, stop) if world.main else Result()
    world.wait()
    result.outputs.append(str(_fit_teacher(options, target, world, console, stop)))
    return result


def _first_part(options: PrepareOptions, target: Path, console: Console, stop: StopRequest) -> Result:
    """The data set, its features and its statistics."""
    outputs, metrics = [target], {}
    if target.exists() and not options.force:
        record = _made_before(options, target, console)
    else:
        record = _prepare(options, target, console, stop)
    metrics["data"] = record
    folder = None
    if options.fit_features:
        folder, figures = _fit_features(options, target, console, stop)
        outputs.append(folder)
        metrics["features"] = figures
    if (statistics := _statistics(options, target, folder, console)) is not None:
        outputs.append(statistics)
    return Result([str(path) for path in outputs], metrics)


def _require_fit(options: PrepareOptions) -> None:
    """Raise UsageError, naming all, for options of a training that was not asked for."""
    fits = {
        "--fit-teacher tiny|small|base": (options.fit_teacher, ("conditional", "fit_lr")),
        "--fit-features": (options.fit_features, ("features_net",)),
        "--fit-teacher or --fit-features": (options.fit_teacher or options.fit_features, ("fit_steps",)),
    }
    idle = {
        flag: [name for name in names if _given(options, name)] for flag, (asked, names) in fits.items() if not asked
    }
    problems = [f"--{name.replace('_', '-')} does nothing without {flag}" for flag in idle for name in idle[flag]]
    if problems:
        raise UsageError(problems, hint=f"add {next(flag for flag in idle if idle[flag])}")


def _given(options: PrepareOptions, name: str) -> bool:
    return bool(getattr(options, name) != PrepareOptions.model_fields[name].default)


def _target(options: PrepareOptions) -> Path:
    """The zip, or the index of shards. Raises UsageError when it would be the source, or a zip called .json."""
    suffix = ".json" if options.shards else ".zip"
    target = options.output
    if target is None:
        part = "" if options.split == "train" else f"-{options.split}"
        target = Path(f"{Path(options.source).resolve().name.split('.')[0].partition('@')[0]}{part}{suffix}")
    elif options.shards and target.suffix != suffix:
        target = target.with_suffix(suffix)
    elif not options.shards and target.suffix in (".json", ".tar"):
        what = "the index of shards" if target.suffix == ".json" else "a shard"
        raise UsageError([f"{target}: {target.suffix} is {what}"], hint="add --shards N, or write a .zip")
    elif not options.shards and target.suffix != suffix and target.suffix.lower() in FILE_SUFFIXES:
        raise UsageError([f"{target}: a data set is a .zip, or shards"], hint=f"-o {target.with_suffix(suffix)}")
    if target.exists() and Path(options.source).exists() and target.samefile(options.source):
        raise UsageError([f"{target} is the source itself"], hint="choose another name with -o")
    return target


def _beside(target: Path, what: str) -> Path:
    return target.with_name(f"{target.stem}-{what}")


def _asked(options: PrepareOptions) -> dict[str, Any]:
    """The options that decide what the data set holds; no paths."""
    names = ("size", "grey", "split", "limit", "shards")
    labels = options.labels.name if options.labels else None
    return {name: getattr(options, name) for name in names} | {"labels": labels}


def _made_before(options: PrepareOptions, target: Path, console: Console) -> dict[str, Any]:
    """The record of a data set that is there. Raises UsageError when it was made with other options."""
    from gsd_cli.data.dataset import ImageArchive

    record = ImageArchive(target).record
    before, now = record.get("asked", {}), _asked(options)
    differ = [f"--{key} {before[key]}, now {now[key]}" for key in now if key in before and before[key] != now[key]]
    if differ:
        problems = [f"{target} was made with other options: {', '.join(differ)}"]
        raise UsageError(problems, hint="--force makes it again; or choose another name with -o")
    console.say(f"{target} is there already; --force makes it again")
    return record


def _prepare(options: PrepareOptions, target: Path, console: Console, stop: StopRequest) -> dict[str, Any]:
    from gsd_cli.base.lock import exclusive
    from gsd_cli.data.build import Recipe, channels_of, prepare, work_folder
    from gsd_cli.data.labels import describe, read_labels
    from gsd_cli.data.sources.open import open_source
    from gsd_cli.data.workers import available_cores

    if options.quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    source = open_source(options.source, options.split, cache_dir(options.cache_dir), offline=options.offline)
    for warning in source.warnings:
        console.warn(warning)
    for line in source.messages:
        console.say(line)
    labels = read_labels(options.labels, source.names) if options.labels else source.labels
    if options.labels and labels is not None:
        console.say(describe(labels, options.labels.name))
    else:
        console.say(source.labels_message or (describe(labels, "the data set itself") if labels else "no labels"))
    channels = channels_of(source) if options.grey is None else 1 if options.grey else 3
    recipe = Recipe(options.size, channels, options.limit, options.shards, _asked(options))
    total = min(len(source.names), options.limit or len(source.names))
    workers = min(options.workers or available_cores(), -(-total // FEW))
    pace = _pace()
    with (
        exclusive(work_folder(target, source, recipe)),
        console.progress(f"preparing {source.name}", total) as bar,
    ):
        prepared = prepare(
            source, target, recipe, labels, options.skip_bad, max(1, workers), stop,
            lambda done: bar.update(done, note=pace(done)),
        )  # fmt: skip
    for name, cause in prepared.bad:
        console.warn(f"left out {name}: {cause}")
    console.say(f"{prepared.record['images']} images of {source.name} in {target}")
    return prepared.record


def _pace() -> Callable[[int], str]:
    """A function of how many images are done: images per second since its first call."""
    begun: tuple[float, int] | None = None

    def note(done: int) -> str:
        nonlocal begun
        begun = begun or (time.monotonic(), done)
        seconds = time.monotonic() - begun[0]
        return f"{(done - begun[1]) / seconds:,.0f} images/s" if seconds > 0.5 else ""

    return note


def _statistics(options: PrepareOptions, target: Path, fitted: Path | None, console: Console) -> Path | None:
    """Reference statistics beside the zip, in the features just fitted, else those at hand."""
    from gsd_cli.compute.device import resolve_device
    from gsd_cli.data.dataset import ImageArchive
    from gsd_cli.metrics import reference
    from gsd_cli.metrics.features import Extractor, classifier_features

    device = resolve_device(options.device)
    extractor: Extractor | None
    if fitted is not None:
        extractor = classifier_features(str(fitted), device)
    else:
        extractor = reference.extractor_at_hand(target, cache_dir(options.cache_dir), device)
    if extractor is None:
        console.say("no Inception in the cache: gsd bench makes the statistics when it needs them")
        return None
    with console.progress(f"statistics ({extractor.figure})", len(ImageArchive(target))) as bar:
        return reference.write_statistics(target, extractor, device, options.batch_size, bar.update)


def _fit_features(
    options: PrepareOptions, target: Path, console: Console, stop: StopRequest
) -> tuple[Path, dict[str, float]]:
    from gsd_cli.base.atomic import atomic_folder
    from gsd_cli.compute.device import exact_if_fp32, resolve_device
    from gsd_cli.core.models.classifier import save_features
    from gsd_cli.core.training.drive import fit
    from gsd_cli.core.training.fit_features import FeatureFit
    from gsd_cli.core.training.report import Cadence
    from gsd_cli.data.dataset import ImageArchive
    from gsd_cli.catalogue.run_layout import features_name

    held_out = target.with_name(f"{target.stem}-test.zip")
    steps = options.fit_steps or FEATURE_STEPS
    test = ImageArchive(held_out) if held_out.exists() else None
    task = FeatureFit(
        ImageArchive(target), test, steps, options.seed, resolve_device(options.device), options.features_net,
        options.precision,
    )  # fmt: skip
    folder = _beside(target, FEATURES[options.features_net])
    work = folder.with_name(folder.name + ".fit")
    with exact_if_fp32(task.device, options.precision):
        fit(task, steps, work, Cadence(max(1, steps // 4)), "features", console, stop)
    figures = task.evaluate(steps)
    task.net.eval()
    card = {"name": features_name(folder), "data": task.data.record, "steps": steps, "seed": options.seed, **figures}
    with atomic_folder(folder) as temporary:
        save_features(task.net, temporary, card)
    return folder, figures


def _fit_teacher(
    options: PrepareOptions, target: Path, world: World, console: Console, stop: StopRequest
) -> Path:  # fmt: skip
    from gsd_cli.catalogue.registry import bundled_features
    from gsd_cli.compute.device import exact_if_fp32, resolve_device
    from gsd_cli.core.training.drive import fit
    from gsd_cli.core.training.fit_teacher import TeacherFit, save_teacher
    from gsd_cli.core.training.report import Cadence
    from gsd_cli.data.dataset import ImageArchive

    settings = _fit_settings(options)
    folder = _beside(target, "teacher")
    work = folder.with_name(folder.name + ".fit")
    task = TeacherFit(ImageArchive(target), settings, work, resolve_device(options.device), world, options.precision)
    cadence = Cadence(max(1, settings.steps // 20))
    with exact_if_fp32(task.device, options.precision):
        report = fit(task, settings.steps, work, cadence, "teacher", console, stop, world)
    if report is None:
        console.say(f"{folder} is trained already")
    if world.main:
        features = bundled_features(task.data.record)
        save_teacher(task, folder, half=options.weights == "fp16", features=features)
    world.wait()
    return folder


def _fit_settings(options: PrepareOptions) -> FitSettings:
    if options.fit_teacher is None:
        raise GsdError("no teacher was asked for")
    given: dict[str, Any] = {"steps": options.fit_steps, "lr": options.fit_lr}
    return FitSettings(
        architecture=options.fit_teacher,
        batch_size=options.batch_size,
        seed=options.seed,
        conditional=options.conditional,
        **{key: value for key, value in given.items() if value is not None},
    )
