"""gsd edit: change one attribute of an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gsd_cli.base.atomic import require_writable
from gsd_cli.base.console import Result
from gsd_cli.base.errors import GsdError, UsageError
from gsd_cli.base.session import Session
from gsd_cli.base.table import Table
from gsd_cli.catalogue.file_formats import IMAGE_FORMATS
from gsd_cli.commands.edit_direction import choose_direction, plan_saving, preserved_names
from gsd_cli.commands.edit_reports import report_change, report_distance, report_others, report_reached
from gsd_cli.commands.explore import explore
from gsd_cli.compute.device import in_full_precision, resolve_device
from gsd_cli.compute.random import latents
from gsd_cli.core.editing.direction import Direction, render_edits
from gsd_cli.core.editing.edit_image import (
    Edited,
    edit_along,
    edit_moves,
    edit_solved,
    edit_until_reached,
    show,
    usual_distance,
)
from gsd_cli.core.editing.edit_text import edit_toward
from gsd_cli.core.editing.known_attributes import TRAITS
from gsd_cli.core.editing.measured_edit import Goal
from gsd_cli.core.editing.store import DirectionStore
from gsd_cli.core.editing.supervised import Attribute
from gsd_cli.core.export.open import open_onnx
from gsd_cli.core.latents.files import Anchor
from gsd_cli.core.latents.inversion import encoder_features
from gsd_cli.core.latents.locate import locate
from gsd_cli.core.latents.walks import step_lengths, unevenness
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.models.open import open_model
from gsd_cli.core.models.open_texts import find_texts, fix_text
from gsd_cli.data.animation import encode_animation, require_animation_format, write_animation
from gsd_cli.data.pixels import save_grid
from gsd_cli.options import EditOptions
from gsd_cli.options.edit import is_of_image, parse_moves, resolve_direction_name, resolve_strengths
from gsd_cli.options.frames import resolve_frames_format

LEGEND = [
    "auroc: how well the direction separates samples that have the attribute from the rest; 0.5 is chance, 1 perfect",
    "success: share of the change that edits reach, for a class the share of images that get it; 1 is best",
    "leakage: change of the other measured attributes, as a multiple of the change of this one; 0 is best",
]
"""What the figures of --list mean (metrics/edit_quality.py has the definitions)."""
SHOWN_STRENGTHS = (-3.0, -1.5, 0.0, 1.5, 3.0)
SHOWN_SEED = 0
"""Strengths and seed of the strips that --list draws."""


def run(options: EditOptions, session: Session) -> Result:
    """Find the latent of the image, edit it by each strength, and write the images."""
    if options.explore is not None:
        return explore(options, session)
    target = Path(options.output)
    streaming = options.output == "-"
    wanted = resolve_strengths(options)
    format_ = "png" if options.list else resolve_frames_format(options)
    if not options.list:
        resolve_direction_name(options)  # refused before the model is opened
    if options.save_direction is not None:
        require_writable(options.save_direction, folder=False)
    if not (streaming or options.list or options.image is None):
        require_writable(target, folder=format_ == "folder")
    if format_ != "folder":
        require_animation_format(format_)
    model = open_model(options.model, resolve_device(options.device), session)
    texts = [text for text in (options.prompt, options.toward) if text is not None]
    found = find_texts(model, texts, options.prompts, session)
    fix_text(model, None if options.prompt is None else found, options.class_, session)
    store = DirectionStore(model, options, session)
    if options.list:
        return _list_directions(options, store)
    save = plan_saving(store, options)
    if options.image is None:  # the option model requires --save-direction then
        saved = save(None)
        return Result([saved["path"]], {"saved_direction": saved})
    if options.toward is not None and found is not None:
        plan = _plan_text(model.generator, found.condition.rows(slice(-1, None)), options)
    else:
        plan = _plan_edit(store, options, session)
    anchors = locate([options.image], model, options, session)
    if len(anchors) != 1:
        raise UsageError([f"{options.image} holds {len(anchors)} latents; edit takes one image"])
    if options.backend == "onnx":  # from here on, because directions are found and latents solved for in torch
        model.generator.exported = open_onnx(str(model.folder), "fp32", options.device, session, model)
    anchors = [replace(anchors[0], z=options.truncation * anchors[0].z)]
    edited, about = plan(anchors[0], wanted)
    metrics = {
        "image": anchors[0].figures,
        "direction": resolve_direction_name(options),
        **about,
        "strengths": wanted,
        **_measure_edit(model.generator, store, anchors[0], edited, wanted, about.get("direction"), options, session),
    }
    saved = save(anchors[0])
    metrics |= {"saved_direction": saved} if saved else {}
    if streaming:
        session.console.write_bytes(encode_animation(edited.images, format_, options.fps, options.scale))
        return Result(metrics=metrics)
    kind = options.format if options.format in IMAGE_FORMATS else "png"
    written = write_animation(edited.images, target, format_, options.fps, edited.z, options.scale, kind)
    return Result([*map(str, written), *([saved["path"]] if saved else [])], metrics)


Plan = Callable[[Anchor, list[float]], tuple[Edited, dict[str, Any]]]
"""An image and strengths to the edited images and what is known of the way they were made."""


def _plan_text(generator: Generator, target: Condition, options: EditOptions) -> Plan:
    """The edit of --toward."""
    return lambda anchor, wanted: (
        edit_toward(generator, anchor, target, wanted, options.batch_size),
        {"method": "toward a text", "prompt": options.prompt},
    )


def _plan_edit(store: DirectionStore, options: EditOptions, session: Session) -> Plan:
    """Choose the way to edit. Names are looked up here, so that a wrong one is refused before the slow inversion."""
    name = resolve_direction_name(options)
    generator, batch_size = store.model.generator, options.batch_size
    if options.move is not None:
        moves = [(store.find(one, options.space, "--move"), s) for one, s in parse_moves(options.move).items()]
        return lambda anchor, wanted: (edit_moves(generator, anchor, moves), {"method": "along the directions"})
    if options.method == "direction" or not _has_score(options):
        if is_of_image(options):
            return lambda anchor, wanted: _edit_along(
                choose_direction(store, options, anchor), anchor, wanted, generator, batch_size
            )
        found = choose_direction(store, options)
        return lambda anchor, wanted: _edit_along(found, anchor, wanted, generator, batch_size)
    target = store.find_target(name)
    if target.signed or options.space != "auto":
        direction = choose_direction(store, options)
        deviation = store.deviations([name])[name]
        return lambda anchor, wanted: (
            edit_until_reached(
                generator, anchor, direction, target, deviation, wanted, encoder_features(generator), batch_size
            ),
            _describe_direction(direction, "reached on this image"),
        )
    goal = _set_goal(store, target, options)

    def solve(anchor: Anchor, wanted: list[float]) -> tuple[Edited, dict[str, Any]]:
        with session.progress(f"editing {name}") as bar:
            edited = edit_solved(generator, anchor, goal, wanted, bar.update)
        return edited, {"method": "solved for this image", "space": "latent"}

    return solve


def _has_score(options: EditOptions) -> bool:
    """Whether what is edited is an attribute, which has a measure to reach, and not a direction of the model."""
    return options.attribute is not None or (options.direction is None and options.fit is not None)


def _edit_along(
    direction: Direction, anchor: Anchor, wanted: list[float], generator: Generator, batch_size: int
) -> tuple[Edited, dict[str, Any]]:
    edited = edit_along(generator, anchor, direction, wanted, batch_size)
    return edited, _describe_direction(direction, "along the direction")


def _describe_direction(direction: Direction, method: str) -> dict[str, Any]:
    figures = {k: v for k, v in direction.figures.items() if not k.startswith("std.")}
    return {
        "direction": direction.name, "method": method, "space": direction.space, "how": direction.how,
        "figures": figures,
    }  # fmt: skip


def _set_goal(store: DirectionStore, target: Attribute, options: EditOptions) -> Goal:
    """The goal of an edit that is solved: the other measured attributes are kept, those of --preserve more strictly."""
    others = preserved_names(options, target.name)
    named = [store.find_target(other, "--preserve") for other in others]
    kept = [*named, *(t for t in TRAITS if t.name not in (target.name, *others))]
    deviations = store.deviations([target.name, *(a.name for a in kept)])
    features = encoder_features(store.model.generator)
    return Goal(target, kept, deviations, features, store.knowledge.classifier, frozenset(others))


@torch.no_grad()
@in_full_precision
def _measure_edit(
    generator: Generator, store: DirectionStore, anchor: Anchor, edited: Edited, wanted: list[float],
    along: str | None, options: EditOptions, session: Session,
) -> dict[str, Any]:  # fmt: skip
    """The effect on this image, one value per strength: attributes, feature distance to the image, class.

    along: the name of the direction, None for an edit that was solved. Warns if the change was not reached, or if the
    class changed and is not what was edited.
    """
    knowledge = store.knowledge
    original = show(generator, anchor, anchor.z[None]).to(generator.device)
    images = edited.images.to(generator.device)
    found: dict[str, list[Any]] = {t.name: t.score(images).tolist() for t in TRAITS}
    features = encoder_features(generator)
    found["feature_distance"] = (features(images) - features(original)).square().sum(1).tolist()
    before = {t.name: t.score(original).item() for t in TRAITS}
    report: dict[str, Any] = {"before": before, "measured": found}
    if len(images) > 2:
        report["largest_over_mean_step"] = unevenness(step_lengths(images, features))
    name = resolve_direction_name(options)
    if options.toward is not None:
        report["usual_distance"] = usual_distance(generator, features, options.batch_size)
        report_change(found["feature_distance"], wanted, report["usual_distance"], session)
    if _has_score(options):
        target, deviation = store.find_target(name), store.deviations([name])[name]
        start, after = target.score(original).item() / deviation, (target.score(images) / deviation).tolist()
        report |= {"reached": [value - start for value in after], "deviation": deviation}
        report_reached(name, edited, wanted, report["reached"], session)
        if target.signed:
            report["begins_at"] = -start
            if -start > max(wanted):
                session.say(f"{name} is more likely than not from a strength of {-start:.1f} on")
        elif options.method != "direction":
            report["usual_distance"] = usual_distance(generator, features, options.batch_size)
            report_distance(wanted, found["feature_distance"], report["usual_distance"], session)
            report["others_changed"] = _measure_others(store, name, before, found)
            report_others(wanted, report["others_changed"], session)
    if knowledge.classifier is not None:
        own = knowledge.classes[int(knowledge.classifier(original).argmax())]
        found["class"] = [knowledge.classes[k] for k in knowledge.classifier(images).argmax(1).tolist()]
        report["class_changed"] = [name_after != own for name_after in found["class"]]
        session.say(f"class: {own}; after the edit: {', '.join(dict.fromkeys(found['class']))}")
        changed = [(s, c) for s, c in zip(wanted, found["class"], strict=True) if c != own]
        if changed and (along or name) not in knowledge.classes:
            listed = ", ".join(f"{c} at {s:g}" for s, c in changed)
            session.warn(f"the class changed: it was {own}, and is {listed}")
    return report


def _measure_others(
    store: DirectionStore, name: str, before: dict[str, float], found: dict[str, list[Any]]
) -> dict[str, list[float]]:  # fmt: skip
    """The change of each measured attribute but `name`, in standard deviations over samples, one per strength."""
    deviations = store.deviations([trait.name for trait in TRAITS if trait.name != name])
    return {other: [(v - before[other]) / deviation for v in found[other]] for other, deviation in deviations.items()}


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
    table = Table("attributes and directions", ["name", "space", "found by", "figures"], rows, LEGEND)
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
