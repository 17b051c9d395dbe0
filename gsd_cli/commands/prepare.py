"""gsd prepare: turn images into a data set with statistics, and train features or a teacher on it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from gsd_cli.base.atomic import atomic_folder, require_writable
from gsd_cli.base.console import Result
from gsd_cli.base.cores import available_cores
from gsd_cli.base.errors import UsageError
from gsd_cli.base.lock import exclusive
from gsd_cli.base.session import Session
from gsd_cli.base.text import plural
from gsd_cli.catalogue.run_layout import FEATURES_SUFFIXES, HELD_OUT_SUFFIX, features_name, next_to_data
from gsd_cli.commands.prepare_prompts import prepare_prompts
from gsd_cli.commands.prepare_teacher import fit_teacher
from gsd_cli.commands.same_fit import require_same_fit
from gsd_cli.compute.device import exact_if_fp32, resolve_device
from gsd_cli.compute.distributed import join_world
from gsd_cli.core.models.classifier import save_features
from gsd_cli.core.training.drive import run_training
from gsd_cli.core.training.fit_features import FeatureFit
from gsd_cli.core.training.report import Cadence
from gsd_cli.data.build import Preparation, prepare, work_folder
from gsd_cli.data.captions import read_captions
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.data.label_names import MissingLabels
from gsd_cli.data.labels import Labels, describe_labels, read_labels
from gsd_cli.data.sources.open import open_source
from gsd_cli.data.sources.source import Source
from gsd_cli.data.sources.subset import choose_places, spread, take, take_labels
from gsd_cli.data.survey import MOST, Survey, survey
from gsd_cli.metrics import reference
from gsd_cli.metrics.features import Extractor, classifier_features
from gsd_cli.options import PrepareOptions
from gsd_cli.options.prepare import (
    FEATURE_STEPS,
    require_consistent_training,
    resolve_target,
    resolve_value_range,
)

T = TypeVar("T")
UNNAMED = ("no label", "no caption")
"""Why --skip-bad leaves out an image that can be read."""
IMAGES_PER_WORKER = 512
"""One process prepares this many images in the time that another needs to start."""


def run(options: PrepareOptions, session: Session) -> Result:
    """Prepare the data set unless it exists, then train the features and the teacher that the options ask for.

    With several processes, the first prepares the data and the statistics, and all train the teacher.
    """
    require_consistent_training(options)
    target = resolve_target(options)
    require_writable(target, folder=False)
    if options.teacher is not None:
        return prepare_prompts(options, target, session)
    if options.fit_teacher is None:
        return _prepare_data(options, target, session)

    world = join_world(resolve_device(options.device), session)
    result = _prepare_data(options, target, session) if world.main else Result()
    world.wait("the data set that the first process prepares")
    result.outputs.extend(str(path) for path in fit_teacher(options, target, world, session))
    return result


def _prepare_data(options: PrepareOptions, target: Path, session: Session) -> Result:
    """Write the data set, its features and its statistics, and return their paths and figures."""
    outputs, metrics = [target], {}
    if target.exists() and not options.force:
        record = _check_existing(options, target, session)
    else:
        record = _write_data_set(options, target, session)
    metrics["data"] = record
    folder = None
    if options.fit_features:
        folder, figures = _fit_features(options, target, session)
        outputs.append(folder)
        metrics["features"] = figures
    if (statistics := _write_statistics(options, target, folder, session)) is not None:
        outputs.append(statistics)
    return Result([str(path) for path in outputs], metrics)


def _collect_data_options(options: PrepareOptions) -> dict[str, Any]:
    """The options that determine the content of the data set, and its source; of paths the names alone."""
    names = ("size", "grey", "value_range", "split", "limit", "shards")
    labels = options.labels.name if options.labels else None
    asked = {name: getattr(options, name) for name in names} | {"labels": labels}
    asked["source"] = Path(os.path.abspath(options.source)).name
    return asked | ({"captions": options.captions.name} if options.captions else {})


def _check_existing(options: PrepareOptions, target: Path, session: Session) -> dict[str, Any]:
    """The record of an existing data set. Raises UsageError if it was made with other options."""
    record = ImageArchive(target).record
    before, now = record.get("asked", {}), _collect_data_options(options)
    known = {"captions", *before}  # a record without captions means none; of other options an older one knows nothing
    differ = [
        f"{'' if key == 'source' else '--'}{key} {before.get(key)}, now {now[key]}"
        for key in now if key in known and before.get(key) != now[key]
    ]  # fmt: skip
    if differ:
        problems = [f"{target} was made with other options: {', '.join(differ)}"]
        raise UsageError(problems, hint="add --force to overwrite it, or choose another name with -o")
    session.say(f"{target} already exists; --force overwrites it")
    return record


def _write_data_set(options: PrepareOptions, target: Path, session: Session) -> dict[str, Any]:
    """Read the source and write the data set; returns its record."""
    if options.quiet:
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    source = open_source(options.source, options.split, session.cache, offline=session.offline)
    for warning in source.warnings:
        session.warn(warning)
    for line in source.messages:
        session.say(line)
    source, labels = _read_labels(options, source, session)
    source, labels, captions = _read_captions(options, source, labels, session)
    if options.limit is not None and options.limit < len(source.names):
        places = choose_places(source.names, labels, options.limit)
        source, labels = take(source, places), take_labels(labels, places)
        captions = captions and [captions[place] for place in places]
    looked = _survey(options, source, session)
    recipe = Preparation(options.size, looked.channels, looked.ranges, options.shards, _collect_data_options(options))
    total = len(source.names)
    workers = min(options.workers or available_cores(), -(-total // IMAGES_PER_WORKER))
    pace = _rate_counter()
    with (
        exclusive(work_folder(target, source, recipe)),
        session.progress(f"preparing {source.name}", total) as bar,
    ):
        prepared = prepare(
            source, target, recipe, labels, options.skip_bad, max(1, workers), session.stop,
            lambda done: bar.update(done, note=pace(done)), captions,
        )  # fmt: skip
    if prepared.made_grey:
        session.warn(f"{plural(prepared.made_grey, 'image')} had colours and were made grey")
    for line in prepared.remarks:
        session.warn(line)
    for name, cause in prepared.bad:
        if cause not in UNNAMED:
            session.warn(f"skipped {name}: {cause}")
    session.say(f"{prepared.record['images']} images of {source.name} in {target}")
    return prepared.record


def _read_labels(options: PrepareOptions, source: Source, session: Session) -> tuple[Source, Labels | None]:
    """The labels, and the source without the images that have none where --skip-bad leaves them out."""
    if options.labels is None:
        found = source.labels
        session.say(source.labels_message or (describe_labels(found, "the data set itself") if found else "no labels"))
        return source, found
    source, _, labels = _read_named(options, source, session, options.labels, read_labels, "label")
    session.say(describe_labels(labels, options.labels.name))
    return source, labels


def _read_captions(
    options: PrepareOptions, source: Source, labels: Labels | None, session: Session
) -> tuple[Source, Labels | None, list[str] | None]:
    """The captions, if there are any, and the source and the labels as `_read_labels` has them."""
    if options.captions is None:
        return source, labels, None
    source, places, captions = _read_named(options, source, session, options.captions, read_captions, "caption")
    session.say(f"{len(set(captions)):,} captions from {options.captions.name}, such as: {captions[0]}")
    return source, take_labels(labels, places), captions


def _read_named(
    options: PrepareOptions, source: Source, session: Session, file: Path,
    read: Callable[[Path, Sequence[str], Callable[[str], None]], T], what: str,
) -> tuple[Source, list[int], T]:  # fmt: skip
    """What a file says of a source's images: without the images that it does not name, where --skip-bad leaves them
    out, and the numbers of the images that are left."""
    lines: list[str] = []
    places = list(range(len(source.names)))
    try:
        found = read(file, source.names, lines.append)
    except MissingLabels as error:
        if not options.skip_bad or len(error.names) == len(source.names):
            raise
        missing = set(error.names)
        places = [place for place, name in enumerate(source.names) if name not in missing]
        source = take(source, places)
        refused = [(name, f"no {what}") for name in error.names]
        source = replace(source, refused=(*source.refused, *refused))
        some = ", ".join(error.names[:10]) + (f" and {len(refused) - 10:,} more" if len(refused) > 10 else "")
        session.warn(f"skipped {plural(len(refused), 'image')} without a {what} in {file}: {some}")
        lines.clear()
        found = read(file, source.names, lines.append)
    for line in lines:
        session.say(line)
    return source, places, found


def _survey(options: PrepareOptions, source: Source, session: Session) -> Survey:
    """Look at some of the images and say what that decides."""
    count = min(MOST, len(source.names))
    # an archive that is read in order shows its first images in the least time
    places = range(count) if source.in_order else spread(len(source.names), count)
    with session.progress(f"looking at {source.name}", count) as bar:
        found = survey(
            source.payloads(places), [source.names[place] for place in places], size=options.size, grey=options.grey,
            value_range=resolve_value_range(options), check=bar.advance,
        )  # fmt: skip
    for line in found.messages:
        session.say(line)
    for warning in found.warnings:
        session.warn(warning)
    return found


def _rate_counter() -> Callable[[int], str]:
    """A function from the number of finished images to a note: images per second since its first call."""
    begun: tuple[float, int] | None = None

    def note(done: int) -> str:
        nonlocal begun
        begun = begun or (time.monotonic(), done)
        seconds = time.monotonic() - begun[0]
        return f"{(done - begun[1]) / seconds:,.0f} images/s" if seconds > 0.5 else ""

    return note


def _write_statistics(options: PrepareOptions, target: Path, fitted: Path | None, session: Session) -> Path | None:
    """Write reference statistics next to the data set, in the features just trained, else in those available.

    Returns their file; None if no features are available.
    """
    device = resolve_device(options.device)
    extractor: Extractor | None
    if fitted is not None:
        extractor = classifier_features(str(fitted), device)
    else:
        extractor = reference.extractor_at_hand(target, session.cache, device)
    if extractor is None:
        channels = ImageArchive(target).shape[0]
        session.say(
            "Inception is not in the cache: gsd bench computes the statistics when it needs them"
            if channels in (1, 3)
            else f"no statistics: Inception reads grey or RGB images, these have {plural(channels, 'channel')}"
        )
        return None
    with session.progress(f"statistics ({extractor.figure})", len(ImageArchive(target))) as bar:
        return reference.write_statistics(target, extractor, device, options.batch_size, bar.update)


def _fit_features(options: PrepareOptions, target: Path, session: Session) -> tuple[Path, dict[str, float]]:
    """Train a classifier on the labels and save it; returns its folder and its figures."""
    held_out = next_to_data(target, HELD_OUT_SUFFIX)
    steps = options.fit_steps or FEATURE_STEPS
    test = ImageArchive(held_out) if held_out.exists() else None
    task = FeatureFit(
        ImageArchive(target), test, steps, options.seed, resolve_device(options.device), options.features_net,
        options.precision,
    )  # fmt: skip
    folder = next_to_data(target, FEATURES_SUFFIXES[options.features_net])
    work = folder.with_name(folder.name + ".fit")
    asked = {"--features-net": options.features_net, "--seed": options.seed}
    require_same_fit(work, folder, asked, task.data, session, force=options.force)
    with exact_if_fp32(task.device, options.precision):
        run_training(task, steps, work, Cadence(max(1, steps // 4)), "features", session)
    figures = task.evaluate(steps)
    task.net.eval()
    card = {"name": features_name(folder), "data": task.data.record, "steps": steps, "seed": options.seed, **figures}
    with atomic_folder(folder) as temporary:
        save_features(task.net, temporary, card)
    return folder, figures
