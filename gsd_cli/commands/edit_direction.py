"""gsd edit: the direction that an edit goes along, and the file of --save-direction."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gsd_cli.base.errors import UsageError
from gsd_cli.catalogue.direction_files import is_direction_file
from gsd_cli.core.editing.direction import Direction, orthogonalise
from gsd_cli.core.editing.direction_file import save_direction
from gsd_cli.core.editing.direction_range import measure_range
from gsd_cli.core.editing.edit_image import usual_distance
from gsd_cli.core.editing.store import DirectionStore
from gsd_cli.core.editing.unsupervised import sensitive_directions
from gsd_cli.core.latents.files import Anchor
from gsd_cli.core.latents.inversion import encoder_features
from gsd_cli.core.models.generator import Model
from gsd_cli.options import EditOptions
from gsd_cli.options.edit import is_of_image, naming_option, resolve_direction_name, resolve_strengths

Save = Callable[[Anchor | None], dict[str, Any]]
"""Writes the file of --save-direction, and returns what is known of it; {} without the option."""


def choose_direction(store: DirectionStore, options: EditOptions, anchor: Anchor | None = None) -> Direction:
    """The direction that --attribute, --direction or --fit names, without its components along those of --preserve.

    anchor: the image, for a direction that is found for one. Raises GsdError for a name or a file that is none.
    """
    name = resolve_direction_name(options)
    if is_of_image(options):
        assert anchor is not None  # the option model requires an image
        found = _find_sensitive(name, anchor, store.model)
    elif options.direction is not None and is_direction_file(name):
        found = _read_file(Path(name), store, options)
    else:
        found = store.find(name, options.space, naming_option(options))
    others = preserved_names(options, found.name)
    return orthogonalise(found, [store.find(other, found.space, "--preserve") for other in others])


def preserved_names(options: EditOptions, edited: str) -> list[str]:
    """The names that --preserve lists. Raises UsageError if the edited attribute is one of them."""
    others = [other.strip() for other in (options.preserve or "").split(",") if other.strip()]
    if edited in others:
        raise UsageError([f"--preserve: {edited} is the edited attribute itself"])
    return others


def _find_sensitive(name: str, anchor: Anchor, model: Model) -> Direction:
    """The direction jacK: the K-th of those that change this image most."""
    number = int(name[3:]) if name[3:].isdigit() else -1
    if not 0 <= number < 16:
        raise UsageError([f"--direction: no {name!r}"], hint="jac0 to jac15")
    found = sensitive_directions(model.generator, anchor.z, encoder_features(model.generator), max(4, number + 1))
    return found[number]


def _read_file(path: Path, store: DirectionStore, options: EditOptions) -> Direction:
    """The direction in a file; a strength outside its measured range is a warning."""
    direction, (low, high) = store.read_file(path, options.space)
    far = [f"{s:+g}" for s in resolve_strengths(options) if not low <= s <= high]
    if far and options.image is not None:
        store.session.warn(
            f"{direction.name}: {', '.join(far)} is outside the range of {path}, {low:+g} to {high:+g}: "
            "the images there are others rather than this one changed"
        )
    return direction


def plan_saving(store: DirectionStore, options: EditOptions) -> Save:
    """The function that writes --save-direction. A direction of the model is looked up here, before the slow
    inversion."""
    path = options.save_direction
    if path is None:
        return lambda anchor: {}
    known = None if is_of_image(options) else choose_direction(store, options)

    def save(anchor: Anchor | None) -> dict[str, Any]:
        direction = choose_direction(store, options, anchor) if known is None else known
        generator, features = store.model.generator, encoder_features(store.model.generator)
        with store.session.progress(f"measuring the range of {direction.name}"):
            usual = usual_distance(generator, features, options.batch_size)
            low, high = measure_range(generator, direction, features, usual, options.batch_size)
        save_direction(path, direction, store.mark, generator.condition.mark, (low, high))
        store.session.say(f"direction saved: {path} ({direction.name}, {direction.space}, {low:+g} to {high:+g})")
        return {
            "path": str(path), "name": direction.name, "space": direction.space, "scale": direction.scale,
            "range": [low, high],
        }  # fmt: skip

    return save
