"""Checks of what gsd edit is asked to change, before torch is loaded: directions, attributes, labels."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from gsd_cli.base.errors import UsageError
from gsd_cli.base.storage import cache_dir
from gsd_cli.base.text import did_you_mean
from gsd_cli.catalogue.direction_files import is_direction_file, read_direction_facts, require_direction_of
from gsd_cli.catalogue.model_facts import (
    COMPONENT_COUNT,
    ModelFacts,
    data_labels,
    stored_directions,
)
from gsd_cli.catalogue.run_layout import DIRECTIONS

if TYPE_CHECKING:
    from gsd_cli.options import EditOptions

from gsd_cli.cli.check_inputs import Check, require_data_set


def require_direction(options: EditOptions, model: ModelFacts) -> None:
    """Raise UsageError where nothing says what to edit, or where it names nothing that the model knows."""
    from gsd_cli.options.edit import learnt_name, parse_moves

    learnt = learnt_name(options)
    if options.toward is not None:
        return
    if options.move is not None:
        for name in parse_moves(options.move):
            if is_direction_file(name):
                _require_file(name, options, model)
            elif re.fullmatch(r"pc\d+", name):
                _require_number(name, "--move")
            else:
                _require_attribute(name, "--move", options, model)
    elif options.attribute is not None:
        if options.attribute == learnt:
            return
        if options.data is None:
            _require_attribute(options.attribute, "--attribute", options, model)
        else:
            _require_label(options.attribute, options.data)
    elif options.direction is not None and is_direction_file(options.direction):
        _require_file(options.direction, options, model)
    elif options.direction is not None:
        _require_component(options.direction, options, model)
    elif learnt is None and options.explore is None:
        last = COMPONENT_COUNT - 1
        raise UsageError(
            ["give --attribute NAME or --direction pcK: what is to be edited"],
            hint=f"--attribute {', '.join(model.attributes)}\n--direction pc0 to pc{last}, or jac0 to jac{last}\n"
            "gsd edit --list says more",
        )


def _require_file(name: str, options: EditOptions, model: ModelFacts) -> None:
    path = Path(name)
    mark = _weights_mark(model.folder)
    require_direction_of(path, read_direction_facts(path), mark, model.latent_shape, options.space)


def preserve_checks(options: EditOptions, model: ModelFacts) -> list[Check]:
    """One check per name of --preserve."""
    from gsd_cli.options.edit import learnt_name

    learnt = learnt_name(options)
    edited = options.attribute or options.direction or learnt

    def check_of(name: str) -> Check:
        def check() -> None:
            if name == edited:
                raise UsageError([f"--preserve: {name} is the edited attribute itself"])
            if name != learnt and not re.fullmatch(r"pc\d+", name):
                _require_attribute(name, "--preserve", options, model)
            elif name != learnt:
                _require_number(name, "--preserve")

        return check

    names = [name.strip() for name in (options.preserve or "").split(",")]
    return [check_of(name) for name in dict.fromkeys(names) if name]


def _require_component(name: str, options: EditOptions, model: ModelFacts) -> None:
    if re.fullmatch(r"(pc|jac)\d+", name):
        _require_number(name, "--direction")
    elif name not in _known_attributes(options, model):
        spellings = [f"{kind}{k}" for kind in ("pc", "jac") for k in range(COMPONENT_COUNT)]
        near = did_you_mean(name, [*spellings, *model.attributes])
        last = COMPONENT_COUNT - 1
        raise UsageError(
            [f"--direction: unknown {name!r}{near}"],
            hint=f"pc0 to pc{last}, jac0 to jac{last}, or FILE.safetensors; --attribute takes "
            f"{', '.join(model.attributes)}",
        )


def _require_number(name: str, option: str) -> None:
    kind, number = name.rstrip("0123456789"), int(name.lstrip("pcja")[:9] or 0)
    if number >= COMPONENT_COUNT:
        raise UsageError([f"{option}: no {name!r}"], hint=f"{kind}0 to {kind}{COMPONENT_COUNT - 1}")


def _require_attribute(name: str, option: str, options: EditOptions, model: ModelFacts) -> None:
    known = _known_attributes(options, model)
    if name in known:
        return
    near = did_you_mean(name, known)
    hint = f"known: {', '.join(known)}; a label of your data: --data DATA.zip; a new one: --fit {name}=WITH:WITHOUT"
    if model.data is not None and name in (data_labels(model.data) or ()):
        hint = f"it is a label of {model.data}: add --data {model.data}"
    elif re.fullmatch(r"(pc|jac)\d+", name):
        hint = f"--direction {name}"
    raise UsageError([f"{option}: unknown {name!r}{near}"], hint=hint)


def _known_attributes(options: EditOptions, model: ModelFacts) -> list[str]:
    return list(dict.fromkeys([*model.attributes, *_learnt_here(cache_dir(options.cache_dir), model)]))


def _learnt_here(cache: Path, model: ModelFacts) -> Iterable[str]:
    """The attributes whose directions of this model are in the cache."""
    folder = cache / DIRECTIONS
    if not folder.is_dir():
        return ()
    return stored_directions(*folder.glob(f"{_weights_mark(model.folder)}*"))


def _weights_mark(folder: Path) -> str:
    from gsd_cli.core.models.fingerprint import weights_fingerprint

    return weights_fingerprint(folder)


def _require_label(name: str, data: Path) -> None:
    """Raise UsageError for a data set that is missing, or that has no label of this name."""
    require_data_set(data, "--data")
    labels = data_labels(data)
    if labels and name not in labels:
        shown = ", ".join(labels)
        raise UsageError([f"--attribute: {data} has no label {name!r}{did_you_mean(name, labels)}"], hint=shown)
