"""gsd edit: change one attribute of an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gsd_cli.base.atomic import require_writable
from gsd_cli.base.console import Result
from gsd_cli.base.errors import GsdError, UsageError
from gsd_cli.base.session import Session
from gsd_cli.base.table import Table
from gsd_cli.catalogue.file_formats import IMAGE_FORMATS
from gsd_cli.compute.device import resolve_device
from gsd_cli.compute.random import latents
from gsd_cli.core.editing.direction import Direction, move_latents, orthogonalise, render_edits
from gsd_cli.core.editing.known_attributes import TRAITS
from gsd_cli.core.editing.response import Measure, respond
from gsd_cli.core.editing.store import DirectionStore
from gsd_cli.core.editing.unsupervised import sensitive_directions
from gsd_cli.core.latents.files import Anchor
from gsd_cli.core.latents.inversion import encoder_features
from gsd_cli.core.latents.locate import locate
from gsd_cli.core.models.generator import Model
from gsd_cli.core.models.open import fix_class, open_model
from gsd_cli.data.animation import encode_animation, require_animation_format, write_animation
from gsd_cli.data.pixels import save_grid
from gsd_cli.options import EditOptions
from gsd_cli.options.edit import naming_option, resolve_direction_name, resolve_strengths
from gsd_cli.options.frames import resolve_frames_format

SHOWN_STRENGTHS = (-3.0, -1.5, 0.0, 1.5, 3.0)
SHOWN_SEED = 0
"""Strengths and seed of the strips that --list draws."""


def run(options: EditOptions, session: Session) -> Result:
    """Find the latent of the image, move it by each strength, and write the images."""
    target = Path(options.output)
    streaming = options.output == "-"
    wanted = resolve_strengths(options)
    format_ = "png" if options.list else resolve_frames_format(options)
    name = "" if options.list else resolve_direction_name(options)
    if not (streaming or options.list):
        require_writable(target, folder=format_ == "folder")
    if format_ != "folder":
        require_animation_format(format_)
    model = open_model(options.model, resolve_device(options.device), session)
    fix_class(model, options.class_, session)
    store = DirectionStore(model, options, session)
    if options.list:
        return _list_directions(options, store)
    assert options.image is not None  # the option model requires it without --list
    # jac directions depend on the image; for all others, a wrong name is refused before the slow inversion
    own = name.startswith("jac") and options.attribute is None
    direction = (
        None if own else project_out_preserved(store, store.find(name, options.space, naming_option(options)), options)
    )
    anchors = locate([options.image], model, options, session)
    if len(anchors) != 1:
        raise UsageError([f"{options.image} holds {len(anchors)} latents; edit takes one image"])
    if direction is None:
        direction = project_out_preserved(store, _find_sensitive(name, anchors[0], model), options)
    frames, z = _render_frames(model, anchors[0], direction, wanted, options)
    metrics = {
        "image": anchors[0].figures,
        "direction": direction.name,
        "space": direction.space,
        "how": direction.how,
        "figures": {k: v for k, v in direction.figures.items() if not k.startswith("std.")},
        "strengths": wanted,
        "measured": _measure_edit(store, anchors[0], direction, wanted, options, session),
    }
    if streaming:
        session.console.write_bytes(encode_animation(frames, format_, options.fps, options.scale))
        return Result(metrics=metrics)
    kind = options.format if options.format in IMAGE_FORMATS else "png"
    written = write_animation(frames, target, format_, options.fps, z, options.scale, kind)
    return Result([str(path) for path in written], metrics)


def project_out_preserved(store: DirectionStore, direction: Direction, options: EditOptions) -> Direction:
    """The direction without its components along the directions that --preserve names, in the same space."""
    others = [other.strip() for other in (options.preserve or "").split(",") if other.strip()]
    if direction.name in others:
        raise UsageError([f"--preserve: {direction.name} is the edited attribute itself"])
    return orthogonalise(direction, [store.find(other, direction.space, "--preserve") for other in others])


def _find_sensitive(name: str, anchor: Anchor, model: Model) -> Direction:
    """The direction jacK: the K-th of those that change this image most."""
    number = int(name[3:]) if name[3:].isdigit() else -1
    if not 0 <= number < 16:
        raise UsageError([f"--direction: no {name!r}"], hint="jac0 to jac15")
    found = sensitive_directions(model.generator, anchor.z, encoder_features(model.generator), max(4, number + 1))
    return found[number]


def _render_frames(
    model: Model, anchor: Anchor, direction: Direction, wanted: list[float], options: EditOptions
) -> tuple[Tensor, Tensor | None]:
    """The images, one per strength, and their latents; None instead of latents for an edit of the bottleneck."""
    deltas = [anchor.delta] * len(wanted) if anchor.delta else []
    frames = render_edits(model.generator, anchor.z[None], direction, wanted, deltas, options.batch_size)
    if anchor.residual is not None:
        frames = frames + anchor.residual
    if direction.space == "bottleneck":
        return frames, None
    shifts = direction.scale * torch.tensor(wanted).reshape(-1, 1, 1, 1) * direction.vector
    return frames, move_latents(anchor.z.expand(len(wanted), *anchor.z.shape), shifts)


def _measure_edit(
    store: DirectionStore, anchor: Anchor, direction: Direction, wanted: list[float], options: EditOptions,
    session: Session,
) -> dict[str, list[Any]]:  # fmt: skip
    """The effect on this image, one value per strength: attributes, feature distance to the image, class."""
    knowledge, generator = store.knowledge, store.model.generator
    measures: dict[str, Measure] = {t.name: t.score for t in TRAITS} | {"features": encoder_features(generator)}
    if knowledge.classifier is not None:
        measures["class"] = knowledge.classifier
    seen = respond(generator, direction, anchor.z[None], wanted, measures, {}, options.batch_size)
    found: dict[str, list[Any]] = {t.name: seen.values[t.name][:, 0].tolist() for t in TRAITS}
    found["feature_distance"] = seen.distance("features").square()[:, 0].tolist()
    if knowledge.classifier is not None:
        names = [knowledge.classes[k] for k in seen.values["class"][:, 0].argmax(1).tolist()]
        before = knowledge.classes[int(seen.base["class"].argmax())]
        found["class"] = names
        session.say(f"class: {before}; after the edit: {', '.join(dict.fromkeys(names))}")
    return found


def _list_directions(options: EditOptions, store: DirectionStore) -> Result:
    """List all names; with -o FILE.png, also find each direction and draw a strip of it from one seed."""
    show = "output" in options.model_fields_set
    rows: list[list[str]] = []
    drawn: list[Direction] = []
    metrics: dict[str, Any] = {}
    for pc in store.find_components():
        rows.append([pc.name, pc.space, pc.how, f"{pc.figures['variance_share']:.1%} of the variance"])
        metrics[pc.name] = pc.scale
        drawn.append(pc)
    for name in [*store.built_in, *store.list_fitted()]:
        found = _find_if_any(store, name) if show else store.load(name)
        rows.append([name, *(_format_row(found) if found != [] else ["", "", "no direction of the model changes it"])])
        metrics[name] = found[0].figures if found else None
        drawn += found[:1] if found else []
    table = Table("attributes and directions", ["name", "space", "found by", "figures"], rows)
    if show:
        return Result([str(_draw_strips(options, store, drawn))], metrics, table)
    return Result([row[0] for row in rows], metrics, table)


def _find_if_any(store: DirectionStore, name: str) -> list[Direction]:
    """The directions of an attribute; an empty list if no direction of the model changes it."""
    try:
        return store.find_attribute(name)
    except GsdError:
        return []


def _format_row(found: Sequence[Direction] | None) -> list[str]:
    if not found:
        return ["", "", "found when first used"]
    best, figures = found[0], found[0].figures
    shown = ", ".join(f"{key} {figures[key]:.2f}" for key in ("auroc", "success", "leakage") if key in figures)
    return [best.space, best.how, shown]


def _draw_strips(options: EditOptions, store: DirectionStore, drawn: list[Direction]) -> Path:
    generator = store.model.generator
    z = latents([SHOWN_SEED], generator.latent_shape)
    strips = [render_edits(generator, z, direction, SHOWN_STRENGTHS, (), options.batch_size) for direction in drawn]
    return save_grid(torch.cat(strips), Path(options.output), len(SHOWN_STRENGTHS), options.scale or 1)
