"""Statistics of the teacher's own multi-step samples: shipped, cached, or made now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gsd_cli.core.fingerprint import network_fingerprint
from gsd_cli.core.noise import latents
from gsd_cli.core.samplers import Sampler
from gsd_cli.core.sampling import sample_teacher
from gsd_cli.core.teachers import Teacher
from gsd_cli.metrics.arrays import read_arrays
from gsd_cli.metrics.features import Extractor
from gsd_cli.metrics.statistics import Statistics, gaussian_statistics
from gsd_cli.paths import ASSETS, kept_if_possible
from gsd_cli.writing import atomic_file, sweep


def shipped_statistics(teacher: Teacher, sampler: Sampler, extractor: Extractor) -> Statistics | None:
    """Statistics that come with a bundled teacher, if they are of this sampler, features and weights."""
    path = ASSETS / teacher.name / f"{sampler.name}.npz"
    if not path.exists():
        return None
    statistics = Statistics.load(path)
    fits = statistics.extractor == extractor.name and statistics.about.get("teacher") == fingerprint(teacher)
    return statistics if fits else None


def sampled_statistics(
    teacher: Teacher,
    sampler: Sampler,
    extractor: Extractor,
    n: int,
    cache: Path,
    device: torch.device,
    batch_size: int,
    on_step: Callable[[int, int], None] | None = None,
) -> Statistics:
    """Sample seeds 0..n-1 and measure them, all their features kept; batches already in the cache are not
    made again. Leaves the statistics in the cache as well, in the form of those that are shipped.

    on_step(done, total) counts network calls over all batches; those in the cache are not announced, so that
    a pace measured from the first call on is that of the sampling.
    """
    folder = cache / "baselines" / f"{fingerprint(teacher)}-{sampler.name}-{extractor.name}"
    sweep(folder)
    calls = sampler.calls(teacher.denoiser)
    starts = range(0, n, batch_size)
    features = []
    for i, start in enumerate(starts):
        seeds = range(start, min(n, start + batch_size))
        path = folder / f"{seeds[0]}-{seeds[-1]}.npz"

        def report(step: int, _: int, done: int = i * calls) -> None:
            if on_step is not None:
                on_step(done + step, len(starts) * calls)

        cached = _read(path, len(seeds))
        if cached is None:
            cached = _sample(teacher, sampler, extractor, seeds, device, report, path)
        features.append(cached)
    about = {
        "teacher": fingerprint(teacher),
        "sampler": sampler.name,
        "calls": str(calls),
        "seeds": f"0-{n - 1}",
        "mode": f"clean estimate {'' if teacher.denoiser.clip_sample else 'not '}clipped, images rounded to 8 bits",
    }
    found = replace(gaussian_statistics(features, extractor.name, about), features=torch.cat(features))
    whole = folder / f"statistics-{n}.npz"  # what is shipped with a bundled teacher
    if not whole.exists():
        with kept_if_possible():
            found.save(whole)
    return found


def _sample(
    teacher: Teacher, sampler: Sampler, extractor: Extractor, seeds: range, device: torch.device,
    report: Callable[[int, int], None], path: Path,
) -> Tensor:  # fmt: skip
    noise = latents(seeds, teacher.denoiser.shape).to(device)
    images = sample_teacher(teacher, sampler, noise, seeds, report)
    with torch.no_grad():
        features = extractor.features(images).float().cpu()
    with kept_if_possible(), atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, features=features.numpy())
    return features


def _read(path: Path, n: int) -> Tensor | None:
    """The features of `n` images; None when the file is missing, damaged or of something else."""
    try:
        found = read_arrays(path)["features"]
    except (OSError, ValueError, KeyError):
        return None
    return torch.from_numpy(found) if found.ndim == 2 and len(found) == n and found.dtype == np.float32 else None


def fingerprint(teacher: Teacher) -> str:
    """Of the teacher's network: what statistics of its samples are filed under."""
    return network_fingerprint(teacher.denoiser.net)
