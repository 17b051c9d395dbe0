"""gsd sample: pictures, one network call each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gsd_cli.console import Console, Result
from gsd_cli.errors import UsageError
from gsd_cli.interrupts import StopRequest
from gsd_cli.options import SampleOptions
from gsd_cli.writing import ready

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_COUNT = 64
FORMATS = {".png": "png", ".npz": "npz", ".zip": "zip", ".tar": "tar"}


def plan(options: SampleOptions) -> list[str]:
    """What a run would write."""
    from gsd_cli.estimate import pictures

    where = "stdout" if options.output == "-" else options.output
    format_ = "a grid" if options.grid else _format(options)
    return [f"{pictures(options.model, len(seeds_of(options)))} as {format_} to {where}"]


def run(options: SampleOptions, console: Console, stop: StopRequest) -> Result:
    """Generate the images of the seeds and write them as asked."""
    seeds, format_ = seeds_of(options), _format(options)
    streaming = options.output == "-"
    target = Path(options.output)
    if not streaming:
        ready(target, folder=format_ == "folder")

    from gsd_cli.commands.loading import class_number, open_model
    from gsd_cli.core.device import autocast, resolve_device
    from gsd_cli.core.sampling import sample
    from gsd_cli.core.world import join_world
    from gsd_cli.data.output import open_writer

    device = resolve_device(options.device)
    world = join_world(device)
    model = open_model(options.model, device, console)
    label = class_number(model, options.class_)

    def images() -> Iterator[tuple[int, Tensor]]:
        with console.progress("sampling", len(seeds)) as bar, autocast(device, options.precision):
            for seed, image in sample(model.generator, seeds, options.batch_size, options.truncation, label, world):
                stop.check()
                yield seed, image
                bar.advance()

    metrics = {"images": len(seeds)}
    if not world.main:
        for _ in images():
            pass
        return Result()
    if streaming:
        with console.stream() as out:
            open_writer(format_, out)(images())
        return Result(metrics=metrics)
    return Result(open_writer(format_, target)(images()), metrics)


def seeds_of(options: SampleOptions) -> tuple[int, ...] | range:
    """The seeds that are asked for."""
    return options.seeds if options.seeds is not None else range(options.num_samples or DEFAULT_COUNT)


def _format(options: SampleOptions) -> str:
    """png (one picture), npz, zip, tar or folder."""
    if options.output == "-":
        format_: str = options.format or "png"
    else:
        format_ = options.format or FORMATS.get(Path(options.output).suffix.lower(), "folder")
        if options.format == "png" and Path(options.output).suffix.lower() != ".png":
            format_ = "folder"
    if options.grid and format_ in ("npz", "zip", "tar"):
        raise UsageError([f"--grid makes one picture, not a {format_}"], hint="give -o grid.png")
    if options.grid and format_ == "folder":
        raise UsageError(["--grid writes one picture"], hint="give -o grid.png")
    return format_
