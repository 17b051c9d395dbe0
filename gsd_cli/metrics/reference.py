"""Reference statistics of a prepared data set, kept beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from gsd_cli.data.archive import ImageArchive
from gsd_cli.errors import GsdError
from gsd_cli.metrics.features import INCEPTION_FILE, Extractor, classifier_features, inception_features
from gsd_cli.metrics.statistics import Statistics, gaussian_statistics
from gsd_cli.paths import ASSETS
from gsd_cli.registry import bundled_features

KEPT = 5000
"""Real images whose features lie beside the statistics, for figures that compare images with images."""


def extractor_at_hand(data: Path, cache: Path, device: torch.device) -> Extractor | None:
    """Features fitted on this data, the bundled ones of its domain, cached Inception, or None."""
    fitted = data.with_name(f"{data.stem}-features")
    if (fitted / "gsd.json").exists():
        return classifier_features(str(fitted), device)
    bundled = bundled_features(ImageArchive(data).record)
    if bundled is not None and (ASSETS / f"features-{bundled}" / "gsd.json").exists():
        return classifier_features(bundled, device)
    if (cache / "inception" / INCEPTION_FILE).exists():
        return inception_features(cache, device, offline=True)
    return None


def write_statistics(
    data: Path, extractor: Extractor, device: torch.device, batch_size: int, on_image: Callable[[int], None]
) -> Path:
    """Measure every image of `data`; writes DATA.<extractor>.npz beside it."""
    archive = ImageArchive(data)
    about = {
        "source": str(archive.record.get("source", data.name)),
        "size": str(archive.shape[1]),
        "mode": str(archive.record.get("resize", "as prepared")),
    }
    kept: list[Tensor] = []
    batches = _some_kept(_features(archive, extractor, device, batch_size, on_image), len(archive), kept)
    statistics = replace(gaussian_statistics(batches, extractor.name, about), features=torch.cat(kept))
    return statistics.save(data.with_name(f"{data.stem}.{extractor.name}.npz"))


def data_statistics(data: Path, extractor: Extractor, device: torch.device, batch_size: int) -> Statistics:
    """The statistics of a data set in these features: read if they lie beside it, else made now."""
    path = data.with_name(f"{data.stem}.{extractor.name}.npz")
    if not path.exists() or path.stat().st_mtime < data.stat().st_mtime:
        archive = ImageArchive(data)
        return gaussian_statistics(_features(archive, extractor, device, batch_size, lambda _: None), extractor.name)
    return Statistics.load(path)


def _some_kept(batches: Iterator[Tensor], total: int, kept: list[Tensor]) -> Iterator[Tensor]:
    """Pass feature batches on; every so many images one goes into `kept`, KEPT of them at most."""
    stride, seen = max(1, -(-total // KEPT)), 0
    for batch in batches:
        first = -seen % stride
        kept.append(batch[first::stride].cpu())
        seen += len(batch)
        yield batch


@torch.no_grad()
def _features(
    archive: ImageArchive, extractor: Extractor, device: torch.device, batch_size: int, on_image: Callable[[int], None]
) -> Iterator[Tensor]:
    done = 0
    for batch in archive.batches(batch_size):
        yield extractor.features(batch.to(device))
        done += len(batch)
        on_image(done)


def require_same_shape(archive: ImageArchive, shape: tuple[int, int, int]) -> None:
    """Raise GsdError (exit 3) when data and model differ in size or channels."""
    if archive.shape != shape:
        raise GsdError(
            f"{archive.path} holds images of shape {archive.shape}, the model makes {shape}",
            hint="prepare the data with the model's --size and --grey",
        )
