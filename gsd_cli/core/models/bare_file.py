"""Files of bare weights as teachers: read as plain tensors, recognised by the names and shapes in them.

No code in a file is run: torch's reader admits tensors and plain containers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gsd_cli.base.errors import GsdError, UsageError
from gsd_cli.catalogue.bare_files import SIZE, named_values
from gsd_cli.catalogue.diffusers_layout import ModelFiles
from gsd_cli.catalogue.readings import PREDICTIONS, SCHEDULES, Reading, assumed, normalize
from gsd_cli.core.models.bare_ddp import read_ddp
from gsd_cli.core.models.bare_guided import read_guided
from gsd_cli.core.models.bare_model import BareModel, State
from gsd_cli.core.models.teacher_config import CHECKS, TeacherConfig

LIBRARIES: tuple[Callable[[State], BareModel | None], ...] = (read_ddp, read_guided)
"""Each gives the model in a file's tensors, or None where they are of another library."""
DEEPEST = 4
"""How many dictionaries tensors may be in."""


def read_bare_file(path: Path) -> BareModel:
    """The model in a file. Raises GsdError (exit 3) where it is damaged, no plain tensors, or of no known library."""
    state = dict(_flatten(_load(path), ""))
    for read in LIBRARIES:
        if (found := read(state)) is not None:
            return found
    raise GsdError(
        f"{path} is of no library that gsd knows by its tensors' names ({', '.join(sorted(state)[:3]) or 'none'}, ...)",
        hint="gsd reads denoising_diffusion_pytorch's and guided-diffusion's networks; or give a diffusers folder",
    )


def read_bare_config(path: Path, assume: str | None = None) -> TeacherConfig:
    """What a file says, as `read_teacher_config` says it of a folder: a reading per combination of what it leaves open.

    Raises GsdError (exit 3) for what cannot be a teacher and where the size of its images is not known, UsageError
    (exit 2) for an assumption that contradicts it.
    """
    model = read_bare_file(path)
    words = normalize(assume) if assume else ""
    named = {key: (value,) for key, value in named_values(words).items() if key in model.choices}
    choices = {**model.choices, **named}
    if not choices.get(SIZE):
        raise GsdError(
            f"{path} does not say the size of its images",
            hint="--data DATA.zip tells it; or say it with --assume size=64",
        )
    readings = tuple(_readings(model, choices))
    fitting = assumed(readings, words) if words else readings
    if not fitting:
        names = ", ".join(one.name for one in readings[:3])
        raise UsageError([f"--assume {assume}: {path} says something else"], hint=f"{names}, ... would fit")
    config, _ = model.arrange(named_values(fitting[0].name))
    CHECKS[str(config["_class_name"])][1](path, config)
    return TeacherConfig(ModelFiles(path, path, None, None), config, fitting, dict(model.scheduler), stated=False)


def _readings(model: BareModel, choices: dict[str, tuple[str, ...]]) -> Iterator[Reading]:
    schedules = model.schedules or SCHEDULES
    for prediction, (name, schedule), *values in product(model.predictions, schedules.items(), *choices.values()):
        named = [f"{key}={value}" for key, value in zip(choices, values, strict=True)]
        words = [PREDICTIONS[prediction][0], *([name] if name else []), *named]
        yield Reading(prediction, {**model.scheduler, **schedule}, ",".join(words))


def _load(path: Path) -> Any:
    for mapped in (True, False):  # files of PyTorch before 1.6 cannot be mapped into memory
        try:
            return torch.load(path, weights_only=True, map_location="cpu", mmap=mapped)
        except Exception as error:
            cause = error  # PyTorch's own message advises loading it anyway
    raise GsdError(
        f"{path} is not a plain file of tensors: it is damaged, or a pickle with code or objects in it",
        hint="gsd runs no code in files; save the network's state_dict() alone, or convert it to safetensors",
    ) from cause


def _flatten(found: Any, prefix: str, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested dictionaries, by their names joined with dots."""
    if isinstance(found, Tensor):
        yield prefix, found
    elif isinstance(found, dict) and depth <= DEEPEST:
        for name, value in found.items():
            if isinstance(name, str):
                yield from _flatten(value, f"{prefix}.{name}" if prefix else name, depth + 1)
