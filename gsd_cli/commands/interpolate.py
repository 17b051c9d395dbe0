"""gsd interpolate: a walk between pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gsd_cli.console import Console, Result
from gsd_cli.interrupts import StopRequest
from gsd_cli.options import InterpolateOptions
from gsd_cli.paths import require_writable

if TYPE_CHECKING:
    from torch import Tensor


def plan(options: InterpolateOptions) -> list[str]:
    """What a run would write."""
    legs = len(options.images) - 1
    return [f"{legs * (options.frames - 1) + 1} frames to {options.output}"]


def run(options: InterpolateOptions, console: Console, stop: StopRequest) -> Result:
    """Locate the pictures in latent space, walk from each to the next, write the frames."""
    target = Path(options.output)
    streaming = options.output == "-"
    if not streaming:
        require_writable(target, folder=target.suffix == "")

    import torch

    from gsd_cli.commands.loading import keep_to_class, open_model
    from gsd_cli.commands.locating import locate
    from gsd_cli.core.device import resolve_device
    from gsd_cli.core.generator import generate
    from gsd_cli.core.inversion import encoder_features
    from gsd_cli.core.losses import distance
    from gsd_cli.core.walks import walk
    from gsd_cli.data.film import film_bytes, write_film

    device = resolve_device(options.device)
    model = open_model(options.model, device, console)
    keep_to_class(model, options.class_, console)
    located = locate(options.images, model, options, options.invert_steps, options.invert_lr, console, stop)
    features = encoder_features(model.generator)

    def images(z: Tensor) -> Tensor:
        stop.check()
        return generate(model.generator, z, options.batch_size)

    def perceptual(a: Tensor, b: Tensor) -> Tensor:
        return distance(features(a.to(device)), features(b.to(device)))

    legs = [
        walk(a, b, options.frames, options.path, images, perceptual)
        for a, b in zip(located.z[:-1], located.z[1:], strict=True)
    ]
    # each leg starts where the last one ended: that frame is shown once
    frames = torch.cat([legs[0].images, *(leg.images[1:] for leg in legs[1:])])
    metrics = {
        "images": located.figures,
        "legs": [{"largest_over_mean_step": leg.unevenness, "length": leg.length} for leg in legs],
    }
    for leg in legs:
        console.say(f"largest over mean step {leg.unevenness:.2f}, perceptual length {leg.length:.2f}")
    if streaming:
        console.write_bytes(film_bytes(frames, ".png", options.fps))
        return Result(metrics=metrics)
    return Result([str(path) for path in write_film(frames, target, options.fps)], metrics)
