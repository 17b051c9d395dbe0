"""Statistics of the teacher's own multi-step samples: shipped, cached, or computed now."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gsd_cli.base.atomic import atomic_file, sweep
from gsd_cli.base.storage import ASSETS, tolerate_storage_errors
from gsd_cli.compute.device import full_precision
from gsd_cli.compute.random import latents
from gsd_cli.core.models.fingerprint import network_fingerprint, teacher_fingerprint
from gsd_cli.core.models.teacher import Teacher
from gsd_cli.core.sampling.images import sample_teacher
from gsd_cli.core.sampling.samplers import Sampler
from gsd_cli.metrics.features import Measure, networks_behind
from gsd_cli.metrics.statistics import Statistics, gaussian_statistics, read_arrays

MOST_CALLS = 100
"""Most network calls at which a sampler's images are made again for an optional measure: more would take hours."""


def shipped_statistics(teacher: Teacher, sampler: Sampler, extractor: str) -> Statistics | None:
    """Statistics that come with a bundled teacher, if they are of this sampler, features and weights.

    They were made by the chain of the bundled scheduler: a teacher of the same weights with another one has none.
    """
    if sampler.cache_name(teacher.denoiser) != sampler.name:
        return None
    for name in (f"{sampler.name}.npz", f"{sampler.name}.{extractor}.npz"):
        path = ASSETS / teacher.name / name
        if not path.exists():
            continue
        statistics = Statistics.load(path)
        if statistics.extractor == extractor and statistics.about.get("teacher") == fingerprint(teacher):
            return statistics
    return None


def sampled_batches(
    teacher: Teacher,
    sampler: Sampler,
    measures: Sequence[Measure],
    n: int,
    cache: Path,
    device: torch.device,
    batch_size: int,
    on_step: Callable[[int, int], None] | None = None,
    optional: Collection[str] = (),
) -> Iterator[dict[str, Tensor]]:
    """Sample seeds 0..n-1; for each batch the vectors [B, F] by each measure's name, all from the same images.

    Batches already in the cache are not made again. optional: names of measures that are left out where the cache
    has nothing of them and an image takes more than MOST_CALLS calls.
    on_step(done, total) counts network calls over all batches; those in the cache are not announced, so that
    a pace measured from the first call on is that of the sampling.
    """
    folders = _folders(cache, teacher, sampler, measures)
    for folder in folders.values():
        sweep(folder)
    calls = sampler.calls(teacher.denoiser)
    starts = range(0, n, batch_size)
    for i, start in enumerate(starts):
        seeds = range(start, min(n, start + batch_size))
        paths = {name: folder / f"{seeds[0]}-{seeds[-1]}.npz" for name, folder in folders.items()}

        def report(step: int, steps: int, done: int = i * calls) -> None:
            if on_step is not None:
                on_step(done + step * calls // steps, len(starts) * calls)

        found = {m.name: _read(paths[m.name], len(seeds)) for m in measures}
        missing = [m for m in measures if found[m.name] is None]
        if any(calls <= MOST_CALLS or m.name not in optional for m in missing):
            noise = latents(seeds, teacher.denoiser.shape).to(device)
            with full_precision(device):  # as the shipped statistics were, in whatever precision samples are made here
                images = sample_teacher(teacher, sampler, noise, seeds, report)
            found |= {m.name: _measured(images, m, paths[m.name]) for m in missing}
        yield {name: vectors for name, vectors in found.items() if vectors is not None}


def keep_statistics(
    teacher: Teacher, sampler: Sampler, measure: Measure, features: Tensor, cache: Path
) -> Statistics:  # fmt: skip
    """The statistics of features [n, F] of seeds 0..n-1; also cached, in the form of the shipped ones."""
    about = {
        "teacher": fingerprint(teacher),
        "sampler": sampler.name_on(teacher.denoiser),
        "calls": str(sampler.calls(teacher.denoiser)),
        "seeds": f"0-{len(features) - 1}",
        "mode": f"clean estimate {'' if teacher.denoiser.clip_sample else 'not '}clipped, images rounded to 8 bits",
    }
    found = replace(gaussian_statistics([features], measure.name, about), features=features)
    # what is shipped with a bundled teacher
    whole = _folders(cache, teacher, sampler, [measure])[measure.name] / f"statistics-{len(features)}.npz"
    if not whole.exists():
        with tolerate_storage_errors():
            found.save(whole)
    return found


def _folders(cache: Path, teacher: Teacher, sampler: Sampler, measures: Sequence[Measure]) -> dict[str, Path]:
    """By each measure's name, where its vectors of the teacher's samples are: a folder for all that they depend on."""
    mark, name = teacher_fingerprint(teacher), sampler.cache_name(teacher.denoiser)  # reads all weights: once for all
    found = {}
    for measure in measures:
        facts = (mark, teacher.denoiser.shape, networks_behind(measure))
        key = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
        found[measure.name] = cache / "baselines" / f"{key}-{name}-{measure.name}"
    return found


@torch.no_grad()
def _measured(images: Tensor, measure: Measure, path: Path) -> Tensor:
    """The images' vectors, kept in the cache."""
    vectors = measure.features(images).float().cpu()
    with tolerate_storage_errors(), atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, features=vectors.numpy())
    return vectors


def _read(path: Path, n: int) -> Tensor | None:
    """The vectors [n, F] of a file; None when it is missing, damaged or holds something else."""
    try:
        found = read_arrays(path)["features"]
    except (OSError, ValueError, KeyError):
        return None
    return torch.from_numpy(found) if found.ndim == 2 and len(found) == n and found.dtype == np.float32 else None


def fingerprint(teacher: Teacher) -> str:
    """The fingerprint of the teacher's network: statistics of its samples are filed under it."""
    return network_fingerprint(teacher.denoiser.net)
