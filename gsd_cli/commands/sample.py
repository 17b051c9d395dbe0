"""gsd sample: generate images, one network call each, or a few; or export the generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gsd_cli.base.atomic import require_writable
from gsd_cli.base.console import Result
from gsd_cli.base.errors import UsageError
from gsd_cli.base.session import Session
from gsd_cli.catalogue.exports import is_export
from gsd_cli.compute.device import autocast, image_precision, resolve_device
from gsd_cli.compute.distributed import World, join_world
from gsd_cli.core.export.open import open_onnx
from gsd_cli.core.export.write import write_export
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.open import find_condition, open_model, resolve_prompt
from gsd_cli.core.models.prompts import load_prompts
from gsd_cli.core.models.renderer import Renderer
from gsd_cli.core.sampling.images import sample
from gsd_cli.core.sampling.refined import refine
from gsd_cli.data.image_writers import open_writer
from gsd_cli.data.pixels import to_uint8
from gsd_cli.options import SampleOptions
from gsd_cli.options.sample import resolve_export, resolve_format, resolve_seeds


@dataclass(frozen=True)
class _Source:
    """What makes the images, the condition of all of them if there is one, and where it computes."""

    renderer: Renderer
    condition: Condition | None
    device: torch.device
    world: World

    def autocast(self, precision: str) -> AbstractContextManager[object]:
        """A context with the precision of `--precision`."""
        latent = self.renderer.image_shape != self.renderer.latent_shape
        return autocast(self.device, image_precision(precision, self.device, latent=latent))


def run(options: SampleOptions, session: Session, keep: Callable[[Tensor], None] | None = None) -> Result:
    """Generate the images of the seeds and write them in the format of the output; or export the model.

    keep: gets each image too, uint8 [C, H, W].
    """
    if (exported := resolve_export(options)) is not None:
        return _export(options, exported, session)
    seeds, format_ = resolve_seeds(options), resolve_format(options)
    if options.seed:
        session.warn(f"--seed changes no image of gsd sample: choose images by --seeds, as in --seeds {options.seed}")
    streaming = options.output == "-"
    target = Path(options.output)
    if not streaming:
        require_writable(target, folder=format_ == "folder")

    source = _open_source(options, session)
    renderer, world = source.renderer, source.world
    channels = renderer.image_shape[0]
    if channels not in (1, 3) and format_ != "npz" and world.main:
        shown = "the first three" if channels > 3 else "the first"
        session.warn(f"images of {channels} channels are shown by {shown}: a .npz holds all of them")

    def images() -> Iterator[tuple[int, Tensor]]:
        with session.progress("sampling", len(seeds)) as bar, source.autocast(options.precision):
            for seed, image in sample(renderer, seeds, options.batch_size, options.truncation, source.condition, world):
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
    source = _open_source(options, session)
    with source.autocast(options.precision):
        images = sample(
            source.renderer, resolve_seeds(options), options.batch_size, options.truncation, source.condition
        )
        return torch.stack([to_uint8(image) for _, image in images])


def _open_source(options: SampleOptions, session: Session) -> _Source:
    """Open the model, in torch or in onnxruntime, and find the condition that --class or --prompt asks for."""
    if options.backend == "onnx" or is_export(options.model):
        device = torch.device("cpu")  # of tensors: onnxruntime has devices of its own
        world = join_world(device, session)
        renderer = open_onnx(options.model, options.export_precision, options.device, session)
        if options.prompt is not None:
            raise UsageError(["--prompt needs a text encoder in torch"], hint="--backend torch, or --prompts FILE")
        if options.prompts is not None:
            renderer.give_prompts(load_prompts(options.prompts).condition)
        condition = find_condition(renderer.name, renderer.conditions, renderer.class_names, options.class_)
        return _Source(renderer, condition, device, world)
    device = resolve_device(options.device)
    world = join_world(device, session)
    model = open_model(options.model, device, session)
    condition = resolve_prompt(model, options, session)
    if options.refine is not None:
        model = refine(model, options.refine, session)
    return _Source(model.generator, condition, device, world)


def _export(options: SampleOptions, target: Path, session: Session) -> Result:
    """Write the model to `target`. The result's figures are the file's."""
    require_writable(target, folder=False)
    model = open_model(options.model, torch.device("cpu"), session)
    resolve_prompt(model, options, session)  # --prompts replaces those that the model keeps
    written = write_export(model, target, options.export_precision, session)
    return Result([str(target)], written.figures())
