"""gsd interpolate: a walk between images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gsd_cli.base.atomic import require_writable
from gsd_cli.base.console import Result
from gsd_cli.base.errors import GsdError, UsageError
from gsd_cli.base.session import Session
from gsd_cli.catalogue.exports import is_export
from gsd_cli.catalogue.file_formats import IMAGE_FORMATS
from gsd_cli.compute.device import resolve_device
from gsd_cli.core.export.onnx_generator import OnnxGenerator
from gsd_cli.core.export.open import open_onnx
from gsd_cli.core.latents.files import Anchor
from gsd_cli.core.latents.inversion import encoder_features
from gsd_cli.core.latents.locate import collect_anchors, locate
from gsd_cli.core.latents.render import add_residuals, render_between
from gsd_cli.core.latents.walks import Embed, Walk, cross_fade, step_lengths, unevenness, walk
from gsd_cli.core.models.feature_maps import pixel_features
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.models.open import find_condition, fix_class, open_model
from gsd_cli.data.animation import encode_animation, require_animation_format, write_animation
from gsd_cli.metrics.features import classifier_features
from gsd_cli.options import InterpolateOptions
from gsd_cli.options.frames import resolve_frames_format


@dataclass(frozen=True)
class _Stage:
    """The ends of the walks; what makes images of latents z [N, ...] at fractions s [N] of the way between two of them;
    and the vectors by which steps are measured."""

    anchors: list[Anchor]
    images: Callable[[Anchor, Anchor, Tensor, Tensor], Tensor]
    embed: Embed


def run(options: InterpolateOptions, session: Session) -> Result:
    """Find the latents of the images, walk from each to the next, and write the frames."""
    target = Path(options.output)
    streaming = options.output == "-"
    format_ = resolve_frames_format(options)
    if not streaming:
        require_writable(target, folder=format_ == "folder")
    if format_ != "folder":
        require_animation_format(format_)
    stage = _open_onnx_stage(options, session) if is_export(options.model) else _open_stage(options, session)
    anchors, embed = stage.anchors, stage.embed
    if len(anchors) < 2:
        raise UsageError(["a walk needs two images"], hint="give another IMAGE, or seed:42")

    ends = [*anchors, anchors[0]] if options.loop else anchors
    legs = [_walk_leg(a, b, stage, options, session) for a, b in pairwise(ends)]
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


def _open_stage(options: InterpolateOptions, session: Session) -> _Stage:
    """The stage of a generator folder. With --backend onnx onnxruntime makes the frames, and torch does the rest."""
    device = resolve_device(options.device)
    model = open_model(options.model, device, session)
    fix_class(model, options.class_, session)
    anchors = locate(options.images, model, options, session)
    if options.backend == "onnx":
        model.generator.exported = open_onnx(str(model.folder), "fp32", options.device, session, model)
    return _build_stage(model.generator, anchors, options.batch_size)


def _build_stage(generator: Generator, anchors: list[Anchor], batch_size: int) -> _Stage:
    device, features = generator.device, encoder_features(generator)

    def images(a: Anchor, b: Anchor, z: Tensor, s: Tensor) -> Tensor:
        # the search for a geodesic needs gradients, and leaves residuals and tuned weights out
        if torch.is_grad_enabled():
            return generator(z.to(device))
        return render_between(generator, a, b, z, s, batch_size)

    # steps are measured between images as they are shown
    return _Stage(anchors, images, lambda made: features(made.to(device).clamp(-1, 1)))


def _open_onnx_stage(options: InterpolateOptions, session: Session) -> _Stage:
    """The stage of an exported file: walks between seeds and saved latents."""
    renderer = open_onnx(options.model, "fp32", options.device, session)
    chosen = find_condition(renderer.name, renderer.conditions, renderer.class_names, options.class_)
    condition = renderer.condition if chosen is None else chosen
    anchors = collect_anchors(options.images, {}, renderer.latent_shape, renderer.fingerprint, options, session)
    if any(anchor.delta for anchor in anchors):
        raise UsageError(
            ["latents of --tune change weights, which an exported file cannot"], hint="give the generator's folder"
        )

    def images(a: Anchor, b: Anchor, z: Tensor, s: Tensor) -> Tensor:
        parts = z.split(options.batch_size)
        made = torch.cat([renderer(part, condition.expand(len(part))) for part in parts])
        return add_residuals(made, a, b, s)

    return _Stage(anchors, images, _embed_without_generator(renderer, session))


def _embed_without_generator(renderer: OnnxGenerator, session: Session) -> Embed:
    """What steps are measured by where there is no encoder: the features of the model's domain, else small images."""
    try:
        features = classifier_features(
            renderer.metadata.get("features") or "none", renderer.device, renderer.image_shape
        )
    except GsdError:
        session.say("steps are measured in pixels: an exported file has no encoder, and there are no features for it")
        half = torch.full((1, renderer.image_shape[0], 1, 1), 0.5)
        return lambda images: pixel_features(images, half)
    session.say(f"steps are measured by the features {features.name}: an exported file has no encoder")
    return features.embed


def _walk_leg(a: Anchor, b: Anchor, stage: _Stage, options: InterpolateOptions, session: Session) -> Walk:
    """The walk from one image to the next. Residuals and tuned weights fade from one to the other."""

    def images(z: Tensor, s: Tensor) -> Tensor:
        session.check()
        return stage.images(a, b, z, s)

    embed = stage.embed
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
