"""Code as a user of the Python API writes it. mypy checks it strictly, and test_api runs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gsd_cli import (
    BenchOptions,
    DistillOptions,
    EditOptions,
    InvertOptions,
    Result,
    SampleOptions,
    bench,
    distill,
    edit,
    invert,
    sample,
)


def make(model: str) -> NDArray[np.uint8]:
    return sample(SampleOptions(model=model, seeds=(0, 1, 7)))


def shorten(teacher: str, run: Path) -> Path:
    return distill(DistillOptions(teacher=teacher, output=run, steps=2, batch_size=4, eval_samples=16))


def look(model: str, image: Path) -> tuple[list[int], float]:
    found = invert(InvertOptions(model=model, images=(str(image), "seed:3"), invert_steps=5))
    return list(found.z.shape), float(found.figures[0]["psnr"])


def move(model: str, target: Path) -> list[str]:
    moved: Result = edit(EditOptions(model=model, image="seed:1", direction="pc0", output=str(target)))
    return moved.outputs


def measure(model: str) -> Result:
    return bench(BenchOptions(model=model, metrics="time", compare="ddim-2"))
