"""How long should the generator's moving average be? Several along one distillation, measured at the same moments.

    python benchmarks/averages.py [--kimg 10] [--ramps 0.02,0.05,0.1,0.2,0.4] [--page PAGE.md]

Averages do not act on the run, so all are of the same weights: what differs between rows is the average alone.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path

from pages import publish
from rows import markdown

from gsd_cli.compute.allocator import keep_freed_memory
from gsd_cli.compute.device import resolve_device
from gsd_cli.core.distillation.step import Distillation
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.core.training.loop import ema_decay, update_average
from gsd_cli.metrics.evaluation import generator_features
from gsd_cli.metrics.features import classifier_features, features_folder
from gsd_cli.metrics.isometry import isometry
from gsd_cli.metrics.reference import reference_of_features
from gsd_cli.metrics.statistics import frechet_distance, gaussian_statistics
from gsd_cli.options import DistillSettings

PAGE = """# How long the moving average should be

    {command}

One distillation of `{teacher}` ({kimg:g} thousand images, isometric term `{term}`, seed {seed}), several averages of
its generator: half-life = `--ema-ramp` x the images seen so far. FD: `FD-fashion` of {samples} samples; speed CV on
{paths} great circles. Measured after the images named. {machine}.

{table}
"""


def main() -> None:
    """Distil once, measure every average, tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="ddpm-fashion")
    parser.add_argument("--kimg", type=float, default=10.0)
    parser.add_argument("--ramps", default="0.02,0.05,0.1,0.2,0.4")
    parser.add_argument("--moments", default="0.4,0.7,1", help="shares of the run")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--paths", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    keep_freed_memory()
    device = resolve_device(options.device)
    teacher = load_teacher(options.teacher, offline=True)
    if teacher.features is None:
        raise SystemExit(f"{options.teacher} has no features of its domain")
    judge = classifier_features(teacher.features, device)
    real = reference_of_features(features_folder(teacher.features), judge).statistics
    settings = DistillSettings(seed=options.seed)
    total = round(1000 * options.kimg / settings.batch_size)
    task = Distillation(teacher.denoiser, settings, total, device, lambda *_: {})
    ramps = [float(ramp) for ramp in options.ramps.split(",")]
    averages = {ramp: copy.deepcopy(task.average) for ramp in ramps}

    def measure(generator: Generator) -> list[float]:
        made = generator_features(generator, judge, range(options.samples), settings.batch_size)
        distance = frechet_distance(gaussian_statistics(made, judge.name), real)
        shape, count = generator.latent_shape, options.paths
        found = isometry(lambda z: generator(z.to(device)).float(), judge.embed, shape, count)
        return [distance, found.speed_cv]

    moments = sorted({max(1, round(float(share) * total)) for share in options.moments.split(",")})
    columns: list[str] = []
    cells: dict[str, list[float]] = {"none": [], **{f"{ramp:g}": [] for ramp in ramps}}
    for step in range(total):
        task.step(step)
        seen = (step + 1) * settings.batch_size
        for ramp, average in averages.items():
            decay = ema_decay(settings.batch_size, seen, settings.ema_half_life, ramp)
            update_average(average, task.generator, decay)
        if step + 1 in moments:
            columns += [f"FD, {seen:,}", f"speed CV, {seen:,}"]
            cells["none"] += measure(copy.deepcopy(task.generator).eval())
            for ramp, average in averages.items():
                cells[f"{ramp:g}"] += measure(average)
            print(seen, {name: values[-2:] for name, values in cells.items()}, file=sys.stderr, flush=True)
    publish(
        PAGE,
        options.page,
        table=markdown(["ramp", *columns], [[name, *values] for name, values in cells.items()]),
        teacher=options.teacher,
        kimg=options.kimg,
        term=f"{settings.irl}-{settings.irl_ratio:g} irl_gradient={settings.irl_gradient}",
        samples=options.samples,
        paths=options.paths,
        seed=options.seed,
    )


if __name__ == "__main__":
    main()
