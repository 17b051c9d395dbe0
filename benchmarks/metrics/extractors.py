"""What does each feature set see, and what does grain see? Real test images, disturbed in known ways.

    python -m benchmarks.metrics.extractors --data fashion-test.zip [-N 2000] [--page docs/bench.md]

Takes some minutes and writes a section of the page: the Frechet distance to the training images, in every bundled
feature set of the data's domain, of the first N test images, untouched and disturbed. A feature set whose distance does
not change is blind to the disturbance.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from benchmarks.support.pages import markdown_table, publish
from gsd_cli.catalogue.registry import bundled_features, further_features
from gsd_cli.compute.random import generator_for
from gsd_cli.data.dataset import ImageArchive
from gsd_cli.metrics.features import classifier_features, features_folder
from gsd_cli.metrics.grain import Grain, GrainCounts
from gsd_cli.metrics.reference import Judge, reference_of_features
from gsd_cli.metrics.statistics import frechet_distance, gaussian_statistics

BATCH = 100
PAGE = """## What does each feature set respond to?

{result}

    {command}

The first {n} test images, unchanged and distorted in known ways. The table gives the
Frechet distance to the training images in each bundled feature set of the domain, in brackets as a multiple of that of
the unchanged images, and the grain. {machine}.

{table}

Noise and blur are given by their standard deviation: noise with pixels in [-1, 1], blur in pixels. Images of other
classes replace a missing class.
"""


def disturbed(data: ImageArchive, n: int) -> Iterator[tuple[str, Tensor]]:
    """Names and images [n, C, H, W]; data holds 2 n images with classes."""
    images, spare = data.batch(torch.arange(n)), data.batch(torch.arange(n, 2 * n))
    noise = torch.randn(images.shape, generator=generator_for(0, "extractors"))
    yield "unchanged", images
    for sigma in (0.01, 0.03, 0.1):
        yield f"noise of {sigma}", images + sigma * noise
    for sigma in (0.5, 0.8):
        yield f"blur of {sigma}", gaussian_blur(images, 5, sigma)
    yield "contrast x 0.9", 0.9 * (images + 1) - 1
    yield "moved by one pixel", images.roll(1, 3)
    yield "mirrored", images.flip(3)
    yield "every second image repeated", images[: n // 2].repeat(2, 1, 1, 1)
    blended = images.clone()
    blended[: n // 10] = (images[: n // 10] + spare[: n // 10]) / 2
    yield "one image in ten a blend of two", blended
    if data.labels is not None:
        labels, others = data.labels[:n], data.labels[n : 2 * n]
        for k in range(int(data.labels.max()) + 1):
            kept = images.clone()
            gone = int((labels == k).sum())
            kept[labels == k] = spare[others != k][:gone]
            yield f"class {data.record['classes'][k]} missing", kept


def judges(data: ImageArchive) -> list[Judge]:
    """The bundled feature sets of the data's domain with their training images."""
    name = bundled_features(data.record)
    if name is None:
        raise SystemExit(f"{data.path}: no bundled feature set is of this domain")
    found = []
    for one in (name, *further_features(name)):
        extractor = classifier_features(one, torch.device("cpu"))
        found.append(Judge(extractor, reference_of_features(features_folder(one), extractor)))
    return found


@torch.no_grad()
def main() -> None:
    """Measure, tabulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="held-out images made by gsd prepare")
    parser.add_argument("-N", "--num-samples", type=int, default=2000)
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    data = ImageArchive(given.data)
    every = judges(data)
    rows: list[list[Any]] = []
    first: list[float] = []
    for name, images in disturbed(data, given.num_samples):
        print(name, flush=True)
        grain, row = Grain(len(images)), []
        for judge in every:
            features = [judge.extractor.features(part) for part in images.split(BATCH)]
            made = gaussian_statistics(features, judge.extractor.name)
            row.append(frechet_distance(made, judge.real.statistics))
        for part in images.split(BATCH):
            grain.add(GrainCounts().features(part))
        first = first or row
        found = grain.figures()
        cells = [f"{value:.3f} ({value / least:.1f} x)" for value, least in zip(row, first, strict=True)]
        rows.append([name, *cells, *(f"{found.get(f'grain_{side}', float('nan')):.0f}" for side in ("bright", "dark"))])
    columns = ["images", *(judge.extractor.figure for judge in every), "grain, bright", "grain, dark"]
    cells_of = {str(name): cells[: len(every)] for name, *cells in rows}
    publish(
        PAGE,
        given.page,
        n=f"{given.num_samples:,}",
        table=markdown_table(columns, rows),
        result="Compared with unchanged images, noise of 0.03 gives a distance of "
        f"{multiples(columns, cells_of['noise of 0.03'])}, and a move by one pixel gives "
        f"{multiples(columns, cells_of['moved by one pixel'])}.",
    )


def multiples(columns: list[str], cells: list[Any]) -> str:
    """What cells have in brackets, each with its feature set: `4.8 x in FD-fashion and 1.0 x in FD-fashion-2`."""
    shown = zip(columns[1:], cells, strict=False)
    return " and ".join(f"{cell.split('(')[1].rstrip(')')} in {name}" for name, cell in shown)


if __name__ == "__main__":
    main()
