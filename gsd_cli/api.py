"""gsd from Python: one function per subcommand, which takes the subcommand's option model.

The options mean the same as the flags. Environment variables and config files are not read. Nothing is printed unless
`verbose` is set. Errors are GsdError, with `hint` and `code`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gsd_cli.base.console import Console, Result
from gsd_cli.base.errors import UsageError
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
    """The latents of images.

    z: float32 [N, C, H, W], one latent of norm sqrt(C H W) per image. figures: one dict per image, with `image` (its
    name) and, for an inverted image, its closeness (`psnr` in dB, `feature_distance`) and how Gaussian the latent is
    (`norm`, `correlation`, `kurtosis`).
    """

    z: Tensor
    figures: list[dict[str, Any]]


class _ReturningConsole(Console):
    """Prints messages only with `verbose`, and leaves stdout alone: results are returned."""

    def __init__(self, options: Common):
        super().__init__(quiet=not options.verbose, verbose=options.verbose)

    def finish(self, command: str, result: Result, config: dict[str, Any]) -> None:
        """Print nothing."""


def prepare(options: PrepareOptions) -> Result:
    """Turn images into a data set, and optionally train a teacher; or encode prompts. `outputs` are the paths."""
    from gsd_cli.commands.prepare import run

    return run(options, _start_session(options))


def distill(options: DistillOptions) -> Path:
    """Distil a teacher, or resume a run; returns the generator's folder."""
    from gsd_cli.commands.distill import run
    from gsd_cli.options.presets import with_preset

    return Path(run(with_preset(options), _start_session(options)).outputs[0])


def sample(options: SampleOptions) -> NDArray[np.uint8]:
    """The images of the seeds, uint8 [N, H, W, C] with C = 1 or 3. If `output` is given, they are also written."""
    import numpy as np
    import torch

    from gsd_cli.commands.sample import make_images, run

    if options.export is not None:
        raise UsageError(["export makes no images"], hint="call gsd_cli.export with these options")

    if "output" in options.model_fields_set:
        kept: list[Tensor] = []
        run(options, _start_session(options), kept.append)
        images = torch.stack(kept)
    else:
        images = make_images(options, _start_session(options))
    return np.asarray(images.permute(0, 2, 3, 1).numpy())


def export(options: SampleOptions) -> Result:
    """Write the generator as one file, the option `export`. Its size and its difference from torch are in `metrics`."""
    from gsd_cli.commands.sample import run

    if options.export is None:
        raise UsageError(["export names no file"], hint='SampleOptions(export="generator.onnx")')
    return run(options, _start_session(options))


def invert(options: InvertOptions) -> Latents:
    """The latents of images: files, or `seed:42`. `generator(z)` gives the images back, with the same class or prompt.

    A text-conditional model looks for the latents that give the images with `prompt`, or the first text of `prompts`.
    """
    import torch

    from gsd_cli.compute.device import resolve_device
    from gsd_cli.core.latents.locate import locate
    from gsd_cli.core.models.open import open_model
    from gsd_cli.core.models.open_texts import find_texts, fix_text

    session = _start_session(options)
    model = open_model(options.model, resolve_device(options.device), session)
    texts = () if options.prompt is None else (options.prompt,)
    fix_text(model, find_texts(model, texts, options.prompts, session), options.class_, session)
    anchors = locate(options.images, model, options, session)
    return Latents(torch.stack([anchor.z for anchor in anchors]), [anchor.figures for anchor in anchors])


def interpolate(options: InterpolateOptions) -> Result:
    """Walk between images in the latent space, or between prompts, and write the frames to `output`."""
    from gsd_cli.commands.interpolate import run

    return run(options, _start_session(options))


def edit(options: EditOptions) -> Result:
    """Move an image along a direction or toward a text, and write the result to `output`."""
    from gsd_cli.commands.edit import run

    return run(options, _start_session(options))


def bench(options: BenchOptions) -> Result:
    """Measure a generator and its baselines; the figures are in `metrics`.

    Raises GsdError (code 7) if a threshold is missed.
    """
    from gsd_cli.commands.bench import run

    return run(options, _start_session(options))


def _start_session(options: Common) -> Session:
    return Session.start(options, _ReturningConsole(options))
