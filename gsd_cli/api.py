"""gsd from Python: each subcommand as a function of its option model.

The options mean what the flags mean, except that neither variables nor config files are read.
Nothing is printed unless `verbose` is set; errors are GsdError, with `hint` and `code`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gsd_cli.base.console import Console, Result
from gsd_cli.base.session import Session
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
    from gsd_cli.commands.prepare import run

    return run(options, _session(options))


def distill(options: DistillOptions) -> Path:
    """Distil a teacher, or resume a run; returns the generator's folder."""
    from gsd_cli.commands.distill import run
    from gsd_cli.options.presets import with_preset

    return Path(run(with_preset(options), _session(options)).outputs[0])


def sample(options: SampleOptions) -> NDArray[np.uint8]:
    """The images of the seeds, uint8 [N, H, W, C] with C = 1 or 3; also written when `output` was given."""
    import numpy as np

    from gsd_cli.commands.sample import images_of, run

    if "output" in options.model_fields_set:
        run(options, _session(options))
    return np.asarray(images_of(options, _session(options)).permute(0, 2, 3, 1).numpy())


def invert(options: InvertOptions) -> Latents:
    """The latents of images: files, or `seed:42`. `generator(z)` makes them again."""
    import torch

    from gsd_cli.compute.device import resolve_device
    from gsd_cli.core.latents.locate import locate
    from gsd_cli.core.models.open import keep_to_class, open_model

    session = _session(options)
    model = open_model(options.model, resolve_device(options.device), session)
    keep_to_class(model, options.class_, session)
    anchors = locate(options.images, model, options, session)
    return Latents(torch.stack([anchor.z for anchor in anchors]), [anchor.figures for anchor in anchors])


def interpolate(options: InterpolateOptions) -> Result:
    """A walk between images, written to `output`."""
    from gsd_cli.commands.interpolate import run

    return run(options, _session(options))


def edit(options: EditOptions) -> Result:
    """An image moved along a direction, written to `output`."""
    from gsd_cli.commands.edit import run

    return run(options, _session(options))


def bench(options: BenchOptions) -> Result:
    """Figures of a generator and its baselines, in `metrics`. Raises GsdError (code 7) when a threshold was missed."""
    from gsd_cli.commands.bench import run

    return run(options, _session(options))


def _session(options: Common) -> Session:
    return Session.start(options, _Silent(options))
