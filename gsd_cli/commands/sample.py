"""gsd sample: pictures, one network call each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gsd_cli.base.atomic import require_writable
from gsd_cli.base.console import Console, Result
from gsd_cli.base.errors import UsageError
from gsd_cli.base.signals import StopRequest
from gsd_cli.catalogue.file_formats import ARCHIVE_FORMATS, FILE_SUFFIXES, IMAGE_FORMATS, SAMPLE_FORMATS
from gsd_cli.options import SampleOptions

if TYPE_CHECKING:
    from torch import Tensor

DEFAULT_COUNT = 64
WRITTEN = ", ".join(f".{kind}" for kind in (*IMAGE_FORMATS, *ARCHIVE_FORMATS))


def plan(options: SampleOptions) -> list[str]:
    """What a run would write."""
    from gsd_cli.catalogue.cost import describe_images

    where = "stdout" if options.output == "-" else options.output
    format_ = _format(options)
    images = describe_images(options.model, len(seeds_of(options)))
    return [f"{images} as {'a grid' if options.grid else format_} to {where}"]


def run(options: SampleOptions, console: Console, stop: StopRequest) -> Result:
    """Generate the images of the seeds and write them as asked."""
    seeds, format_ = seeds_of(options), _format(options)
    streaming = options.output == "-"
    target = Path(options.output)
    if not streaming:
        require_writable(target, folder=format_ == "folder")

    from gsd_cli.compute.device import autocast, resolve_device
    from gsd_cli.compute.distributed import join_world
    from gsd_cli.core.models.open import class_number, open_model
    from gsd_cli.core.sampling.images import sample
    from gsd_cli.data.image_writers import open_writer

    device = resolve_device(options.device)
    world = join_world(device, stop, console)
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
    return Result(open_writer(format_, target, options.format or "png")(images()), metrics)


def seeds_of(options: SampleOptions) -> tuple[int, ...] | range:
    """The seeds that are asked for."""
    return options.seeds if options.seeds is not None else range(options.num_samples or DEFAULT_COUNT)


def _format(options: SampleOptions) -> str:
    """png, jpg, webp (one picture), npz, zip, tar or folder.

    Raises UsageError where --format, --grid and the name of the output do not go together.
    """
    format_ = _by_name(options)
    if options.grid and format_ not in IMAGE_FORMATS:
        wrong = "--grid writes one picture" if format_ == "folder" else f"--grid makes one picture, not a {format_}"
        raise UsageError([wrong], hint="give -o grid.png")
    return format_


def _by_name(options: SampleOptions) -> str:
    if options.output == "-":
        return options.format or "png"
    suffix = "" if options.output.endswith("/") else Path(options.output).suffix.lower()
    named = SAMPLE_FORMATS.get(suffix)
    if named is None:
        if suffix in FILE_SUFFIXES:
            raise UsageError([f"-o {options.output}: {suffix} files are not written"], hint=f"{WRITTEN}, or a folder")
        return "folder" if options.format in IMAGE_FORMATS else options.format or "folder"
    if options.format not in (None, named):
        raise UsageError(
            [f"--format {options.format} contradicts -o {options.output}"],
            hint=f"leave out --format, or give -o {Path(options.output).with_suffix('.' + str(options.format))}",
        )
    return named
