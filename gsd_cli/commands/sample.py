"""gsd sample: generate images, one network call each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from gsd_cli.base.atomic import require_writable
from gsd_cli.base.console import Result
from gsd_cli.base.session import Session
from gsd_cli.compute.device import autocast, resolve_device
from gsd_cli.compute.distributed import join_world
from gsd_cli.core.models.open import open_model, resolve_prompt
from gsd_cli.core.sampling.images import sample
from gsd_cli.data.image_writers import open_writer
from gsd_cli.data.pixels import to_uint8
from gsd_cli.options import SampleOptions
from gsd_cli.options.sample import resolve_format, resolve_seeds


def run(options: SampleOptions, session: Session, keep: Callable[[Tensor], None] | None = None) -> Result:
    """Generate the images of the seeds and write them in the format of the output.

    keep: gets each image too, uint8 [C, H, W].
    """
    seeds, format_ = resolve_seeds(options), resolve_format(options)
    streaming = options.output == "-"
    target = Path(options.output)
    if not streaming:
        require_writable(target, folder=format_ == "folder")

    device = resolve_device(options.device)
    world = join_world(device, session)
    model = open_model(options.model, device, session)
    condition = resolve_prompt(model, options, session)
    channels = model.generator.image_shape[0]
    if channels not in (1, 3) and format_ != "npz" and world.main:
        shown = "the first three" if channels > 3 else "the first"
        session.warn(f"images of {channels} channels are shown by {shown}: a .npz holds all of them")

    def images() -> Iterator[tuple[int, Tensor]]:
        with session.progress("sampling", len(seeds)) as bar, autocast(device, options.precision):
            for seed, image in sample(model.generator, seeds, options.batch_size, options.truncation, condition, world):
                if keep is not None:
                    keep(to_uint8(image))
                yield seed, image
                bar.advance()

    metrics = {"images": len(seeds)}
    if not world.main:
        for _ in images():
            pass
        return Result()
    if streaming:
        with session.console.stream() as out:
            open_writer(format_, out, scale=options.scale)(images())
        return Result(metrics=metrics)
    return Result(open_writer(format_, target, options.format or "png", options.scale)(images()), metrics)


def make_images(options: SampleOptions, session: Session) -> Tensor:
    """The images of the seeds, uint8 [N, C, H, W]."""
    device = resolve_device(options.device)
    model = open_model(options.model, device, session)
    condition = resolve_prompt(model, options, session)
    with autocast(device, options.precision):
        images = sample(model.generator, resolve_seeds(options), options.batch_size, options.truncation, condition)
        return torch.stack([to_uint8(image) for _, image in images])
