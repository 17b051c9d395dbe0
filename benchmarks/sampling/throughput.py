"""How much slower is `gsd sample` (seeds, network, PNG, files) than the bare network in a loop?

    python -m benchmarks.sampling.throughput [--rounds 5] [-N 512] [--threads 2]

Takes some ten minutes and prints one line per output format; its files are temporary. Both are timed in one process, in
turns: the ratio of each round, its median and quartiles. Imports and loading are left out on both sides. The bare loop
draws one random batch and calls the network.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from gsd_cli.compute.device import resolve_device, synchronize
from gsd_cli.compute.random import latents
from gsd_cli.core.models.generator import Generator, load_model
from gsd_cli.core.sampling.images import sample
from gsd_cli.data.image_writers import open_writer

TARGETS = {"folder": "many", "png": "grid.png", "npz": "x.npz", "zip": "x.zip", "tar": "x.tar"}


@torch.no_grad()
def bare(model: Generator, count: int, batch: int, device: torch.device) -> None:
    """The network, called on one batch again and again."""
    z = latents(range(batch), model.latent_shape, "bare").to(device)
    for _ in range(count // batch):
        model(z)
    synchronize(device)


def whole(model: Generator, count: int, batch: int, format_: str, folder: Path) -> None:
    """What gsd sample does between loading and leaving."""
    open_writer(format_, folder / TARGETS[format_])(sample(model, range(count), batch))


def seconds(work: Callable[[], None]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Print one line a format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fashion")
    parser.add_argument("-N", type=int, default=512, dest="count")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    model = load_model(options.model).generator.to(device)
    bare(model, options.batch_size, options.batch_size, device)
    print(f"{options.count} images, batch {options.batch_size}, {options.threads} threads, {device}")
    for format_ in TARGETS:
        ratios = []
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory() as scratch:
                alone = seconds(lambda: bare(model, options.count, options.batch_size, device))
                together = seconds(
                    lambda: whole(model, options.count, options.batch_size, format_, Path(scratch))  # noqa: B023
                )
            ratios.append(together / alone)
        low, middle, high = np.percentile(ratios, [25, 50, 75])
        print(f"{format_:7} {middle:.3f} times the bare network's time ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
