"""How many steps the teacher's own samplers can take, from a model's files alone: no torch."""

from __future__ import annotations

from pathlib import Path

from gsd_cli.base.errors import GsdError, UsageError
from gsd_cli.base.storage import read_object
from gsd_cli.catalogue.diffusers_layout import locate_model
from gsd_cli.catalogue.families import BETAS, find_family
from gsd_cli.catalogue.registry import DISCRETE_SAMPLERS, sampler_words


def require_steps_of_teacher(names: list[str], model: Path) -> None:
    """Raise UsageError where a sampler among `names` takes more steps than the teacher of `model` has noise levels.

    Only a discrete DDPM has a finite number of them. A generator's folder holds its teacher's schedule. Where that
    cannot be read, the samplers check it later.
    """
    total = _levels(model)
    wanted = {name: words[1] or 0 for name in names if (words := sampler_words(name)) and words[0] in DISCRETE_SAMPLERS}
    too_many = [name for name, steps in wanted.items() if total is not None and steps > total]
    if too_many:
        raise UsageError(
            [f"{name}: the teacher has {total} noise levels" for name in too_many],
            hint=f"give at most {total} steps: a discrete chain visits each level at most once",
        )


def _levels(model: Path) -> int | None:
    try:
        place = locate_model(model).schedule
        schedule = {} if place is None else read_object(place)
    except GsdError:
        return None
    total = schedule.get("num_train_timesteps")
    return total if isinstance(total, int) and find_family(schedule) == BETAS else None
