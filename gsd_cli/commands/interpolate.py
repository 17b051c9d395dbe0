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
from gsd_cli.catalogue.image_names import count_latents
from gsd_cli.compute.device import resolve_device
from gsd_cli.core.export.onnx_generator import OnnxGenerator
from gsd_cli.core.export.open import open_onnx
from gsd_cli.core.latents.files import Anchor
from gsd_cli.core.latents.inversion import encoder_features
from gsd_cli.core.latents.locate import collect_anchors, give_texts, locate
from gsd_cli.core.latents.render import add_residuals, condition_between, render_between
from gsd_cli.core.latents.walks import Embed, Walk, cross_fade, step_lengths, unevenness, walk
from gsd_cli.core.models.feature_maps import pixel_features
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.models.open import find_condition, open_model
from gsd_cli.core.models.open_texts import find_texts, fix_text
from gsd_cli.core.models.prompts import Prompts, pick_prompts
from gsd_cli.data.animation import encode_animation, require_animation_format, write_animation
from gsd_cli.metrics.features import classifier_features
from gsd_cli.options import InterpolateOptions
from gsd_cli.options.frames import resolve_frames_format
from gsd_cli.options.interpolate import require_pairs


@dataclass(frozen=True)
class _Stage:
    """The ends of the walks; what makes images of latents z [N, ...] at fractions s [N] of the way between two of them;
    the vectors by which steps are measured; and the texts of the ends, or of all, if any were given."""

    anchors: list[Anchor]
    images: Callable[[Anchor, Anchor, Tensor, Tensor], Tensor]
    embed: Embed
    prompts: tuple[str, ...] = ()


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
    ends = [*anchors, anchors[0]] if options.loop else anchors
    legs = [_walk_leg(a, b, stage, options, session) for a, b in pairwise(ends)]
    frames, z = _join_legs(legs, options)
    metrics = {
        "images": [anchor.figures for anchor in anchors],
        **({"prompts": list(stage.prompts)} if stage.prompts else {}),
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
    found = find_texts(model, options.prompt, options.prompts, session)
    count = _count_ends(options, found)
    if found is None or len(found.texts) == 1:
        fix_text(model, found, options.class_, session)
        anchors = locate(options.images, model, options, session)
    elif count == 1:
        anchors = locate(options.images, model, options, session, found.condition.rows(slice(1)))
        anchors = give_texts(anchors * len(found.texts), found.condition)
    else:
        anchors = locate(options.images, model, options, session, found.condition)
    if options.backend == "onnx":
        model.generator.exported = open_onnx(str(model.folder), "fp32", options.device, session, model)
    return _build_stage(model.generator, anchors, options.batch_size, () if found is None else found.texts)


def _count_ends(options: InterpolateOptions, found: Prompts | None) -> int:
    """The number of images. Raises UsageError where the texts do not fit them."""
    count = count_latents(options.images)
    require_pairs(count, 0 if found is None else len(found.texts))
    return count


def _build_stage(generator: Generator, anchors: list[Anchor], batch_size: int, prompts: tuple[str, ...] = ()) -> _Stage:
    device, features = generator.device, encoder_features(generator)

    def images(a: Anchor, b: Anchor, z: Tensor, s: Tensor) -> Tensor:
        # the search for a geodesic needs gradients, and leaves residuals and tuned weights out
        if torch.is_grad_enabled():
            between = condition_between(a, b, s)
            return generator(z.to(device), None if between is None else between.to(device))
        return render_between(generator, a, b, z, s, batch_size)

    # steps are measured between images as they are shown
    return _Stage(anchors, images, lambda made: features(made.to(device).clamp(-1, 1)), prompts)


def _open_onnx_stage(options: InterpolateOptions, session: Session) -> _Stage:
    """The stage of an exported file: walks between seeds and saved latents."""
    renderer = open_onnx(options.model, "fp32", options.device, session)
    chosen = find_condition(renderer.name, renderer.conditions, renderer.class_names, options.class_)
    condition = renderer.condition if chosen is None else chosen
    found = None if options.prompts is None else pick_prompts(options.prompts, options.prompt)
    count = _count_ends(options, found)
    if found is not None:
        renderer.give_prompts(found.condition)
        condition = renderer.condition
    anchors = collect_anchors(options.images, {}, renderer.latent_shape, renderer.fingerprint, options, session)
    if any(anchor.delta for anchor in anchors):
        raise UsageError(
            ["latents of --tune change weights, which an exported file cannot"], hint="give the generator's folder"
        )

    if found is not None and len(found.texts) > 1:
        anchors = give_texts(anchors * (len(found.texts) if count == 1 else 1), found.condition)

    def images(a: Anchor, b: Anchor, z: Tensor, s: Tensor) -> Tensor:
        made = []
        for part in torch.arange(len(z)).split(options.batch_size):
            between = condition_between(a, b, s[part])
            made.append(renderer(z[part], condition.expand(len(part)) if between is None else between))
        return add_residuals(torch.cat(made), a, b, s)

    texts = () if found is None else found.texts
    return _Stage(anchors, images, _embed_without_generator(renderer, session), texts)


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
        f"perceptual length {leg.length:.2f} (cross-fade {naive['length']:.2f})"
    )
    return figures | {"cross_fade": naive}
