"""The real images that generated ones are compared with: statistics by name, by file, or of a prepared data set."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.base.storage import tolerate_storage_errors
from gsd_cli.catalogue.registry import bundled_features
from gsd_cli.catalogue.run_layout import (
    CARD,
    FEATURE_STATISTICS,
    FEATURES_SUFFIXES,
    bundled_features_folder,
    features_name,
    next_to_data,
    statistics_of_features,
    statistics_path,
)
from gsd_cli.core.distillation.real_images import require_same_shape
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.metrics.features import (
    INCEPTION_FILE,
    ClassifierFeatures,
    Extractor,
    TeacherFeatures,
    classifier_features,
    inception_features,
    networks_behind,
)
from gsd_cli.metrics.grain import Grain, GrainCounts, grain_facts, grain_of
from gsd_cli.metrics.image_quality import Real
from gsd_cli.metrics.published import PUBLISHED, published_statistics
from gsd_cli.metrics.statistics import Statistics, gaussian_statistics

KEPT = 5000
"""At most this many real images have their features stored with the statistics, for KID, precision and recall."""


@dataclass(frozen=True)
class Judge:
    """An extractor, and the real images in its features: what a Frechet distance needs."""

    extractor: Extractor
    real: Real


def extractor_at_hand(data: Path, cache: Path, device: torch.device) -> Extractor | None:
    """Features fitted on this data, the bundled ones of its domain, cached Inception, or None."""
    fitted = fitted_extractor(data, device)
    if fitted is not None:
        return fitted
    colours = ImageArchive(data).shape[0] in (1, 3)
    if colours and (cache / "inception" / INCEPTION_FILE).exists():
        return inception_features(cache, device, offline=True)
    return None


def fitted_extractor(
    data: Path, device: torch.device, shape: tuple[int, int, int] | None = None
) -> ClassifierFeatures | None:
    """Features fitted on this data, or the bundled ones of its domain; None without any, or of another shape."""
    bundled = bundled_features(ImageArchive(data).record)
    for spec in (str(next_to_data(data, FEATURES_SUFFIXES["residual"])), bundled):
        if spec is None or not any((folder / CARD).exists() for folder in (Path(spec), bundled_features_folder(spec))):
            continue
        try:
            return classifier_features(spec, device, shape)
        except GsdError:
            if shape is None:
                raise
    return None


def write_statistics(
    data: Path, extractor: Extractor, device: torch.device, batch_size: int, on_image: Callable[[int], None]
) -> Path:
    """Measure every image of `data`; write DATA.<extractor>.npz next to it, with the images' grain among its facts."""
    return measure(data, extractor, device, batch_size, on_image).save(statistics_path(data, extractor.name))


def measure(
    data: Path, extractor: Extractor, device: torch.device, batch_size: int, on_image: Callable[[int], None]
) -> Statistics:
    """The statistics of every image of a data set, with features of some and the grain of all."""
    archive = ImageArchive(data)
    about = {
        "source": str(archive.record.get("source", data.name)),
        "size": str(archive.shape[1]),
        "mode": str(archive.record.get("resize", "as prepared")),
    }
    kept: list[Tensor] = []
    grain = Grain(len(archive))
    batches = _some_kept(_features(archive, extractor, device, batch_size, on_image, grain), len(archive), kept)
    found = gaussian_statistics(batches, extractor.name, about)
    # at the precision of the file, so that figures do not depend on whether it was read
    features = torch.cat(kept).half().float()
    return replace(found, features=features, about=about | grain_facts(grain.figures()))


def reference_statistics(
    spec: str | None, folder: Path | None, extractor: Extractor, cache: Path, device: torch.device, batch_size: int,
    *, shape: tuple[int, int, int] | None = None, offline: bool, on_image: Callable[[int], None] = lambda done: None,
) -> Real:  # fmt: skip
    """The real images' statistics, with features where they hold some.

    spec: a published name, an .npz, or a prepared data set, measured now unless its statistics are next
    to it; None: those in the feature set `folder` or next to it. shape: the shape that the images of a data set must
    have; None where the features resize.
    """
    if spec is None:
        found = reference_of_features(folder, extractor)
    elif spec in PUBLISHED:
        found = Real(published_statistics(spec, cache, offline=offline), spec)
    else:
        path = Path(spec)
        is_file = path.suffix == ".npz" and not path.is_dir()
        found = _read(path) if is_file else _of_data(path, shape, extractor, cache, device, batch_size, on_image)
    if found.statistics.extractor != extractor.name:
        raise GsdError(
            f"{found.name} holds statistics of {found.statistics.extractor} features, not of {extractor.name} ones",
            hint="make them with the same features: gsd prepare DATA, or give another --features",
        )
    return found


def reference_of_features(folder: Path | None, extractor: Extractor) -> Real:
    """The statistics of the real images that are in a feature set's folder or next to it."""
    path = None if folder is None else statistics_of_features(folder, extractor.name)
    if path is not None:
        return _read(path)
    raise GsdError(
        f"no reference statistics for {extractor.figure}",
        hint=f"give --stats: an .npz or DATA.zip made by gsd prepare, or a name: {', '.join(PUBLISHED)}",
    )


def real_grain(
    spec: str | None, folder: Path | None, batch_size: int, on_image: Callable[[int], None] = lambda done: None
) -> tuple[dict[str, float], str]:
    """The grain of the real images and the name of their source; empty where neither is known.

    spec: as `reference_statistics` takes it; a data set is measured now, an .npz may hold its images' grain. None:
    what the statistics of the feature set `folder` hold.
    """
    path = Path(spec) if spec is not None else folder and statistics_of_features(folder, features_name(folder))
    if path is None or spec in PUBLISHED:
        return {}, ""
    if path.suffix == ".npz" and not path.is_dir():
        known = _read(path)
        return grain_of(known.statistics.about), known.name
    archive = _data_set(path)
    grain = Grain(len(archive))
    for batch in archive.batches(batch_size):
        grain.add(GrainCounts().features(batch))
        on_image(grain.count)
    return grain.figures(), path.name


def _read(path: Path) -> Real:
    found = Statistics.load(path)
    name = f"{path.parent.name}/{path.name}" if path.name == FEATURE_STATISTICS else path.name
    if "arrays" in found.about:
        name = f"{name} (arrays {found.about['arrays']})"
    return Real(found, name, found.features, name)


def _of_data(
    data: Path, shape: tuple[int, int, int] | None, extractor: Extractor, cache: Path, device: torch.device,
    batch_size: int, on_image: Callable[[int], None],
) -> Real:  # fmt: skip
    archive = _data_set(data)
    if shape is not None:
        require_same_shape(archive, shape)
    place, cached = statistics_path(data, extractor.name), in_cache(data, extractor, cache)
    found = next(
        (Statistics.load(path) for path in (_kept_next_to(data, extractor), cached) if path and path.exists()), None
    )
    if found is None:
        found = measure(data, extractor, device, batch_size, on_image)
        only_cached = data.is_dir() or isinstance(extractor, TeacherFeatures)
        for path in (cached,) if only_cached else (place, cached):
            with tolerate_storage_errors():
                found.save(path)
                break
    name = data.name if isinstance(extractor, TeacherFeatures) else place.name
    return Real(found, name, found.features, name)


def _data_set(path: Path) -> ImageArchive:
    if not is_data_set(path):
        known = ", ".join(PUBLISHED)
        raise GsdError(f"--stats: {path} is no .npz, data set or known name", hint=f"known: {known}")
    return ImageArchive(path)


def is_data_set(path: Path) -> bool:
    """Whether --stats means real images by this path, which any features can be measured of."""
    return path.is_dir() or path.suffix in (".zip", ".json")


def in_cache(data: Path, extractor: Extractor, cache: Path) -> Path:
    """Where they are in the cache: those of read-only data, and of a folder, whose .zip may have others next to it."""
    files = sorted(path for path in data.rglob("*") if path.is_file()) if data.is_dir() else [data]
    facts = [(str(path.relative_to(data)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    mark = networks_behind(extractor)
    key = hashlib.sha256(repr((os.path.abspath(data), facts, mark)).encode()).hexdigest()[:16]
    return cache / "statistics" / f"{key}.{extractor.name}.npz"


def _kept_next_to(data: Path, extractor: Extractor) -> Path | None:
    """The statistics next to a data set, if they are not older than it.

    A folder has none there. Nor have the features of a teacher: the file's name does not say which teacher it was.
    """
    if isinstance(extractor, TeacherFeatures):
        return None
    path = statistics_path(data, extractor.name)
    there = path.exists() and data.is_file() and path.stat().st_mtime >= data.stat().st_mtime
    return path if there else None


def data_statistics(data: Path, extractor: Extractor, device: torch.device, batch_size: int) -> Statistics:
    """The statistics of a data set in these features: read if they are next to it, else computed now."""
    path = _kept_next_to(data, extractor)
    if path is None:
        archive = ImageArchive(data)
        return gaussian_statistics(_features(archive, extractor, device, batch_size, lambda _: None), extractor.name)
    return Statistics.load(path)


def _some_kept(batches: Iterator[Tensor], total: int, kept: list[Tensor]) -> Iterator[Tensor]:
    """Yield the feature batches; the features of at most KEPT images, a fixed random choice, are added to `kept`.

    Data sets are sorted by class or repeat their classes in turn: the first images, or every k-th, would show few.
    """
    chosen = torch.zeros(total, dtype=torch.bool)
    chosen[torch.randperm(total, generator=torch.Generator().manual_seed(0))[:KEPT]] = True
    seen = 0
    for batch in batches:
        kept.append(batch[chosen[seen : seen + len(batch)].to(batch.device)].cpu())
        seen += len(batch)
        yield batch


@torch.no_grad()
def _features(
    archive: ImageArchive, extractor: Extractor, device: torch.device, batch_size: int,
    on_image: Callable[[int], None], grain: Grain | None = None,
) -> Iterator[Tensor]:  # fmt: skip
    done = 0
    for batch in archive.batches(batch_size):
        if grain is not None:
            grain.add(GrainCounts().features(batch))
        yield extractor.features(batch.to(device))
        done += len(batch)
        on_image(done)
