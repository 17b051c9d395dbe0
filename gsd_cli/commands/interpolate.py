"""gsd interpolate: a walk between images."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gsd_cli.base.atomic import require_writable
from gsd_cli.base.console import Result
from gsd_cli.base.errors import UsageError
from gsd_cli.base.session import Session
from gsd_cli.catalogue.file_formats import IMAGE_FORMATS
from gsd_cli.compute.device import resolve_device
from gsd_cli.core.latents.files import Anchor
from gsd_cli.core.latents.inversion import encoder_features
from gsd_cli.core.latents.locate import locate
from gsd_cli.core.latents.render import render_between
from gsd_cli.core.latents.walks import Embed, Walk, cross_fade, step_lengths, unevenness, walk
from gsd_cli.core.models.generator import Model
from gsd_cli.core.models.open import fix_class, open_model
from gsd_cli.data.animation import encode_animation, require_animation_format, write_animation
from gsd_cli.options import InterpolateOptions
from gsd_cli.options.frames import resolve_frames_format


def run(options: InterpolateOptions, session: Session) -> Result:
    """Find the latents of the images, walk from each to the next, and write the frames."""
    target = Path(options.output)
    streaming = options.output == "-"
    format_ = resolve_frames_format(options)
    if not streaming:
        require_writable(target, folder=format_ == "folder")
    if format_ != "folder":
        require_animation_format(format_)
    device = resolve_device(options.device)
    model = open_model(options.model, device, session)
    fix_class(model, options.class_, session)
    anchors = locate(options.images, model, options, session)
    if len(anchors) < 2:
        raise UsageError(["a walk needs two images"], hint="give another IMAGE, or seed:42")
    features = encoder_features(model.generator)

    def embed(images: Tensor) -> Tensor:
        return features(images.to(device))

    ends = [*anchors, anchors[0]] if options.loop else anchors
    legs = [_walk_leg(a, b, model, options, embed, session) for a, b in pairwise(ends)]
    frames, z = _join_legs(legs, options)
    metrics = {
        "images": [anchor.figures for anchor in anchors],
        "legs": [_report_leg(leg, embed, session) for leg in legs],
        "frames": len(frames),
    }
    if streaming:
        session.console.write_bytes(encode_animation(frames, format_, options.fps, options.scale))
        return Result(metrics=metrics)
    kind = options.format if options.format in IMAGE_FORMATS else "png"
    written = write_animation(frames, target, format_, options.fps, z, options.scale, kind)
    return Result([str(path) for path in written], metrics)


def _walk_leg(a: Anchor, b: Anchor, model: Model, options: InterpolateOptions, embed: Embed, session: Session) -> Walk:
    """The walk from one image to the next. Residuals and tuned weights fade from one to the other."""

    def images(z: Tensor, s: Tensor) -> Tensor:
        session.check()
        # the search for a geodesic needs gradients, and leaves residuals and tuned weights out
        if torch.is_grad_enabled():
            return model.generator(z.to(model.generator.device))
        return render_between(model.generator, a, b, z, s, options.batch_size)

    if options.path != "geodesic":
        return walk(a.z, b.z, options.frames, options.path, images, embed)
    with session.progress("geodesic", options.geodesic_steps) as bar:
        return walk(
            a.z, b.z, options.frames, "geodesic", images, embed, options.geodesic_steps, lambda k, _: bar.update(k)
        )


def _join_legs(legs: list[Walk], options: InterpolateOptions) -> tuple[Tensor, Tensor]:
    """The frames and latents of all legs. The image between two legs is shown once."""
    frames = torch.cat([legs[0].images, *(leg.images[1:] for leg in legs[1:])])
    z = torch.cat([legs[0].z, *(leg.z[1:] for leg in legs[1:])])
    if options.loop:
        frames, z = frames[:-1], z[:-1]
    if options.pingpong:
        frames, z = torch.cat([frames, frames[1:-1].flip(0)]), torch.cat([z, z[1:-1].flip(0)])
    return frames, z


def _report_leg(leg: Walk, embed: Embed, session: Session) -> dict[str, Any]:
    """Evenness and length of a walk, next to those of a pixel cross-fade between the same ends."""
    faded = step_lengths(cross_fade(leg.images[0], leg.images[-1], len(leg.images)), embed)
    figures = {"largest_over_mean_step": leg.unevenness, "length": leg.length}
    naive = {"largest_over_mean_step": unevenness(faded), "length": faded.sum().item()}
    session.say(
        f"largest over mean step {leg.unevenness:.2f} (pixel cross-fade {naive['largest_over_mean_step']:.2f}), "
        f"perceptual length {leg.length:.2f} ({naive['length']:.2f})"
    )
    return figures | {"cross_fade": naive}
