"""Which run a `gsd distill` is: its folder and length, what it must agree on with its record, how it is resumed."""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

from gsd_cli.base.errors import GsdError, UsageError
from gsd_cli.base.storage import ASSETS, RUNS, read_object
from gsd_cli.catalogue.find import read_card
from gsd_cli.catalogue.registry import TEACHERS
from gsd_cli.catalogue.run_layout import CARD, CHECKPOINTS, GENERATOR, OPTIONS, checkpoints
from gsd_cli.core.distillation.inputs import choose_data, ratios
from gsd_cli.core.models.fingerprint import folder_fingerprint
from gsd_cli.options import PRESETS, DistillOptions, DistillSettings

_MAY_CHANGE = {"precision", "noise_device", "micro_batch", "recompute", "compile"}
_OF_DISCRIMINATOR = {"discriminator_lr", "discriminator_steps", "discriminator_penalty"}
_SIZE = {"student_width", "student_depth"}
"""Of the student: not even --force changes it, for no checkpoint would fit."""
BEFORE = {"irl_gradient": "free", "fake_score": "plain", "feature_matching": 0.0}
"""What a run did that does not name the option: its only way before there was one. Others are their defaults."""


def run_folder(options: DistillOptions) -> Path:
    """Where the run lives."""
    return options.output or RUNS / f"{Path(os.path.abspath(options.teacher)).name}-{options.preset}"


def total_steps(options: DistillOptions, epoch: int | None) -> int | None:
    """The length of the run in generator steps; None where it is what fits into `--minutes`.

    epoch: images per pass over the data, needed for `--epochs` only.
    """
    if options.steps is not None:
        return options.steps
    if options.minutes is not None and options.kimg is None and options.epochs is None:
        return None
    images = 1000 * (options.kimg or 0) if options.epochs is None else options.epochs * (epoch or 0)
    return max(1, round(images / options.batch_size))


def recorded(options: DistillOptions, folder: Path, key: str) -> Any:
    """What the run that is resumed noted in options.json; None where it noted nothing."""
    path = folder / OPTIONS
    return read_object(path).get(key) if options.resume and path.exists() else None


def identity(options: DistillOptions) -> dict[str, Any]:
    """What a resumed run must agree on: the mathematics and the teacher."""
    settings = {name: getattr(options, name) for name in DistillSettings.model_fields if name not in _MAY_CHANGE}
    decided = ratios(options, choose_data(options))
    return {"teacher": options.teacher, "revision": options.revision, **settings, **decided}


def folder_mark(teacher: str) -> str | None:
    """The fingerprint of a teacher given as a folder; None for a name, a hub id, and what cannot be read."""
    if teacher in TEACHERS or not Path(teacher).is_dir():
        return None
    with suppress(GsdError):  # said when the teacher is opened
        return folder_fingerprint(Path(teacher))
    return None


def _teacher_now(options: DistillOptions, record: dict[str, Any]) -> str:
    """The teacher as the record spells it where it is the same one, by its weights or else by its place; else as
    it is given."""
    before, mark = record.get("teacher"), record.get("teacher_mark")
    now = folder_mark(options.teacher)
    if isinstance(before, str) and (now == mark if now and mark else _place(before) == _place(options.teacher)):
        return before
    return options.teacher if options.teacher != before else f"{options.teacher} with other weights"


def _place(teacher: str) -> str:
    """A name, a hub id or the path of a folder, spelt in one way."""
    entry = TEACHERS.get(teacher)
    if entry is not None:
        return entry.hub or str((ASSETS / teacher).resolve())
    return str(Path(teacher).resolve()) if Path(teacher).is_dir() else teacher


def _idle(options: DistillOptions) -> set[str]:
    """The settings that nothing asks: they may differ, in a run from before a default changed."""
    idle = set() if ratios(options, choose_data(options))["adversarial"] else _OF_DISCRIMINATOR
    if options.irl == "off" or options.irl_weight == 0:
        return idle | {"irl_weight", "irl_ratio", "irl_every", "irl_phi", "irl_gradient", "tau_min", "tau_max"}
    return idle | ({"irl_ratio"} if options.irl_weight != "auto" or options.sidl_weight == 0 else set())


def has_decayed(options: DistillOptions, folder: Path, total: int | None) -> bool:
    """Whether a run that now gets another length has lowered its learning rate for the one it had."""
    before = recorded(options, folder, "total_steps")
    if not options.lr_decay or before in (None, total):
        return False
    saved = [path.name.removeprefix("step-") for path in checkpoints(folder / CHECKPOINTS)]
    done = max((int(step) for step in saved if step.isdigit()), default=0)
    return done > (1 - options.lr_decay) * min(total or before, before)


def _in_todays_terms(record: dict[str, Any]) -> dict[str, Any]:
    """A run's record, with what older versions called otherwise: before there were heads, `auto` noise was `ddpm`."""
    if "discriminator_lr" in record:
        return record
    earlier = {"noise": "ddpm"} if record.get("noise", "auto") == "auto" else {}
    return {**record, **earlier, "adversarial": "another kind" if record.get("adversarial") else 0.0}


def _changed(options: DistillOptions) -> list[str]:
    """The flags that a resume command must repeat."""
    skip = {"teacher", "output", "resume", "force", "profile"}
    implied = PRESETS[options.preset]
    flags: list[str] = []
    for name in sorted(options.model_fields_set - skip):
        value = getattr(options, name)
        if implied.get(name) == value:
            continue
        option = "--" + name.rstrip("_").replace("_", "-")
        if isinstance(value, bool):
            flags += [option] if value else []
        elif value is not None:
            flags += [option, str(value)]
    return flags


def resume_command(options: DistillOptions, folder: Path) -> str:
    """The command that goes on."""
    return shlex.join(["gsd", "distill", "--teacher", options.teacher, *_changed(options), "-o", str(folder)])


def check_options(options: DistillOptions, folder: Path, total: int | None) -> bool:
    """Whether the run is finished; one that gets more minutes is not. Raises UsageError (exit 2) naming keys that
    differ."""
    path = folder / OPTIONS
    if not path.exists() or not options.resume:
        return False
    before = {**DistillSettings().model_dump(), **BEFORE, **_in_todays_terms(read_object(path))}
    now = {**identity(options), "teacher": _teacher_now(options, before), "total_steps": total}
    # a length may change: nothing in the past depends on it but the warm-up of the isometric weight and a decay
    free = _idle(options) | {"total_steps"}
    differing = [key for key in now if key not in free and before.get(key) != now[key]]
    if differing and (not options.force or _SIZE & set(differing)):
        changes = ", ".join(f"{key} ({before.get(key)} -> {now[key]})" for key in differing)
        # a checkpoint fits one size of student
        forced = "" if _SIZE & set(differing) else ", or --force to go on"
        raise UsageError(
            [f"{folder} was started with other options: {changes}"],
            hint=f"use its options, another folder with -o, --no-resume to start again{forced}",
        )
    generator = folder / GENERATOR
    if total is None:
        return False
    return (generator / CARD).exists() and read_card(generator).get("steps", 0) >= total and not differing
