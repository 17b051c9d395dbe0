"""What do the exported files of a generator cost: bytes, differences from torch, time per image, Frechet distance?

    python -m benchmarks.export.formats [--model fashion] [-N 2000] [--threads 1] [--page PAGE.md]

Exports the model in every format (half a minute each), times calls of 1 and of 16 images in turns with torch's, and
measures the Frechet distance in the features of the model's domain. Prints a Markdown table. Its files are temporary.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.support.pages import markdown_table, publish
from gsd_cli.base.session import Session
from gsd_cli.base.text import format_bytes, format_seconds
from gsd_cli.compute.random import latents
from gsd_cli.core.export.check import SEEDS
from gsd_cli.core.export.onnx_generator import OnnxGenerator
from gsd_cli.core.export.record import Export
from gsd_cli.core.export.write import write_export
from gsd_cli.core.models.generator import load_model
from gsd_cli.core.models.renderer import Renderer
from gsd_cli.metrics.features import classifier_features, features_folder
from gsd_cli.metrics.generated import generated_batches
from gsd_cli.metrics.reference import reference_of_features
from gsd_cli.metrics.speed import time_interleaved
from gsd_cli.metrics.statistics import frechet_distance, gaussian_statistics

FORMATS = {".onnx, fp32": "fp32", ".onnx, fp16": "fp16", ".onnx, int8": "int8", ".pt2": "fp32"}
BATCHES = (1, 16)
CPU = torch.device("cpu")
TEMPLATE = """<!-- {command} -->

{table}

Written by `{command}` on {machine}, {threads} thread(s) per call. Differences are over {seeds} seeds, of pixels in
[-1, 1]. Times are medians of {rounds} calls per format, in turns. {figure} is over {count} seeds.
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fashion")
    parser.add_argument("-N", type=int, default=2000, dest="count")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_model(options.model)
    with tempfile.TemporaryDirectory() as scratch:
        written = {
            name: write_export(model, Path(scratch, f"{precision}{name.split(',')[0]}"), precision, Session())
            for name, precision in FORMATS.items()
        }
        generator = model.generator.eval().requires_grad_(False)
        renderers: dict[str, Renderer] = {"torch": generator}
        renderers |= {name: OnnxGenerator(one.path) for name, one in written.items() if one.path.suffix == ".onnx"}
        program = torch.export.load(written[".pt2"].path).module()
        calls: dict[str, Callable[[Tensor], Tensor]] = {**renderers, ".pt2": program}
        times = [_time(calls, generator.latent_shape, batch, options.rounds) for batch in BATCHES]
        figure, distances = _measure(renderers, str(model.features), options.count)
    rows = [_row(name, written.get(name), times, distances) for name in calls]
    columns = ["", "size", "largest difference", "rms", *(f"per image, batch {n}" for n in BATCHES), figure]
    publish(
        TEMPLATE, options.page, table=markdown_table(columns, rows), threads=options.threads, seeds=SEEDS,
        rounds=options.rounds, figure=figure, count=f"{options.count:,}",
    )  # fmt: skip


def _time(
    calls: Mapping[str, Callable[[Tensor], Tensor]], shape: tuple[int, int, int], batch: int, rounds: int
) -> dict[str, float]:  # fmt: skip
    """Seconds per image of each."""
    z = latents(range(batch), shape, "timing")
    tasks = {name: torch.no_grad()(lambda call=call: call(z)) for name, call in calls.items()}
    for task in tasks.values():
        task()
    return {name: found.median for name, found in time_interleaved(tasks, batch, CPU, rounds).items()}


def _measure(renderers: Mapping[str, Renderer], features: str, count: int) -> tuple[str, dict[str, float]]:
    """The name of the distance, and the distance of each one's images from real ones."""
    extractor = classifier_features(features, CPU)
    real = reference_of_features(features_folder(features), extractor).statistics
    found = {}
    for name, renderer in renderers.items():
        batches = generated_batches(renderer, [extractor], range(count), 16)
        statistics = gaussian_statistics((batch[extractor.name] for batch in batches), extractor.name)
        found[name] = frechet_distance(statistics, real)
        print(name, extractor.figure, found[name], flush=True)
    return extractor.figure, found


def _row(name: str, export: Export | None, times: list[dict[str, float]], distances: dict[str, float]) -> list[object]:
    about: list[object] = ["-", "-", "-"]
    if export is not None:
        about = [format_bytes(export.bytes), f"{export.difference.largest:.2g}", f"{export.difference.rms:.2g}"]
    distance = f"{distances[name]:.4f}" if name in distances else "-"
    return [name, *about, *(format_seconds(found[name]) for found in times), distance]


if __name__ == "__main__":
    main()
