"""gsd from Python: each subcommand as a function of its option model.

The options mean what the flags mean, except that neither variables nor config files are read.
Nothing is printed unless `verbose` is set; errors are GsdError, with `hint` and `code`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gsd_cli.base.console import Console, Result
from gsd_cli.base.signals import StopRequest
from gsd_cli.options import (
    BenchOptions,
    Common,
    DistillOptions,
    EditOptions,
    InterpolateOptions,
    InvertOptions,
    PrepareOptions,
    SampleOptions,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True)
class Latents:
    """z: float32 [N, C, H, W], one latent a picture, of norm sqrt(C H W); figures: how well each stands for it
    (`psnr` in dB, `feature_distance`, and how Gaussian it is: `norm`, `correlation`, `kurtosis`)."""

    z: Tensor
    figures: list[dict[str, Any]]


class _Silent(Console):
    """Says something only when asked to; never touches stdout."""

    def __init__(self, options: Common):
        super().__init__(quiet=not options.verbose, verbose=options.verbose)

    def finish(self, command: str, result: Result, config: dict[str, Any]) -> None:
        """The result is returned instead."""


def prepare(options: PrepareOptions) -> Result:
    """Images to a data set, statistics and, if asked, a teacher. `outputs` are the paths."""
    return _run("prepare", options)


def distill(options: DistillOptions) -> Path:
    """Distil a teacher, or go on with a run; returns the generator's folder."""
    from gsd_cli.cli.config import with_preset

    return Path(_run("distill", with_preset(options)).outputs[0])


def sample(options: SampleOptions) -> NDArray[np.uint8]:
    """The pictures of the seeds, uint8 [N, H, W, C] with C = 1 or 3; also written when `output` was given."""
    import numpy as np
    import torch

    from gsd_cli.commands.sample import seeds_of
    from gsd_cli.compute.device import autocast, resolve_device
    from gsd_cli.core.models.open import class_number, open_model
    from gsd_cli.core.sampling.images import sample as images
    from gsd_cli.data.pixels import to_uint8

    if "output" in options.model_fields_set:
        _run("sample", options)
    device = resolve_device(options.device)
    model = open_model(options.model, device, _Silent(options))
    label = class_number(model, options.class_)
    with autocast(device, options.precision):
        made = images(model.generator, seeds_of(options), options.batch_size, options.truncation, label)
        pictures = [to_uint8(image) for _, image in made]
    return np.asarray(torch.stack(pictures).permute(0, 2, 3, 1).numpy())


def invert(options: InvertOptions) -> Latents:
    """The latents of pictures: files, or `seed:42`. `generator(z)` makes them again."""
    import torch

    from gsd_cli.compute.device import resolve_device
    from gsd_cli.core.latents.locate import locate
    from gsd_cli.core.models.open import keep_to_class, open_model

    console = _Silent(options)
    model = open_model(options.model, resolve_device(options.device), console)
    keep_to_class(model, options.class_, console)
    anchors = locate(options.images, model, options, console, StopRequest())
    return Latents(torch.stack([anchor.z for anchor in anchors]), [anchor.figures for anchor in anchors])


def interpolate(options: InterpolateOptions) -> Result:
    """A walk between pictures, written to `output`."""
    return _run("interpolate", options)


def edit(options: EditOptions) -> Result:
    """A picture moved along a direction, written to `output`."""
    return _run("edit", options)


def bench(options: BenchOptions) -> Result:
    """Figures of a generator and its baselines, in `metrics`. Raises GsdError (code 7) when a threshold was missed."""
    return _run("bench", options)


def _run(command: str, options: Common) -> Result:
    # the module by name: a command and its function share one
    result: Result = import_module(f"gsd_cli.commands.{command}").run(options, _Silent(options), StopRequest())
    return result
