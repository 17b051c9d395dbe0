"""The folder of a distillation: where it is, its record options.json, and whether a command may resume the run in it.

`--minutes M` ends this session after M minutes of wall time, counted from the start of the process, with the run
evaluated, saved and exported. The first evaluation, and one early checkpoint and export, measure how long that takes.

- Without another length, the run takes as many steps as fit. Its length is settled once the time per step is known,
  and the learning rate falls towards it (the rule is in core/training/pace.py). options.json holds the length as
  `total_steps`, and every [step, length] at which a length was settled as `lengths`. If it was settled once,
  `--steps TOTAL_STEPS` repeats the run, bit for bit on a CPU.
- With `--kimg`, `--steps` or `--epochs`, that is the length. The run stops when its time is up, and the same command
  resumes it.
- A resumed run with `--minutes M` gets M more minutes and a new length. After Ctrl-C, the printed command has the
  settled length as `--steps` instead of `--minutes`, so that it resumes the interrupted run. Before a length is settled
  it keeps `--minutes`.
- With several processes, the clock of the main one decides for all.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from gsd_cli.base.atomic import write_json
from gsd_cli.base.console import Result
from gsd_cli.base.download import file_sha256
from gsd_cli.base.errors import GsdError, UsageError
from gsd_cli.base.storage import ASSETS, RUNS, read_object, require_room
from gsd_cli.catalogue.cost import disk_needed, growth
from gsd_cli.catalogue.diffusers_layout import PICKLE, locate_model
from gsd_cli.catalogue.find import local_teacher, read_card
from gsd_cli.catalogue.registry import TEACHERS
from gsd_cli.catalogue.run_layout import CARD, CHECKPOINTS, GENERATOR, OPTIONS, checkpoints
from gsd_cli.core.distillation.inputs import choose_data, choose_prompts, resolve_ratios
from gsd_cli.core.models.fingerprint import folder_fingerprint
from gsd_cli.core.training.pace import Pace
from gsd_cli.options import PRESETS, DistillOptions, DistillSettings
from gsd_cli.options.distill import OF_REFINEMENT

_MAY_CHANGE = {"precision", "noise_device", "micro_batch", "recompute", "compile", "cuda_graphs", "shard"}
_DISCRIMINATOR_SETTINGS = {"discriminator_lr", "discriminator_steps", "discriminator_penalty"}
_STUDENT_SIZE = {"student_width", "student_depth", "adapters", "refine"}
"""Even --force does not change these, because no checkpoint would fit."""
VALUES_BEFORE = {"irl_gradient": "free", "fake_score": "plain", "feature_matching": 0.0}
"""Values to assume for runs recorded before the option existed. For other options it is the default."""


class Record:
    """options.json: the run's identity, which includes `total_steps`, and other notes on the run."""

    def __init__(self, folder: Path, identity: dict[str, Any], notes: dict[str, Any], lengths: list[list[int]]):
        self.folder, self.identity, self.notes, self.lengths = folder, identity, notes, lengths

    def write(self) -> None:
        """Write the file."""
        lengths = {"lengths": self.lengths} if self.lengths else {}
        write_json(self.folder / OPTIONS, {**self.identity, **self.notes, **lengths})

    def settle(self, step: int, length: int, *, write: bool) -> None:
        """Record the length that was settled after `step` steps."""
        self.identity["total_steps"] = length
        self.lengths.append([step, length])
        if write:
            self.write()


def resolve_run_folder(options: DistillOptions) -> Path:
    """The folder of the run: --output, else runs/TEACHER-PRESET, with --refine runs/TEACHER-PRESET-refined."""
    refined = "" if options.refine is None else "-refined"  # the other one may hold the start
    return options.output or RUNS / f"{_name_teacher(options.teacher)}-{options.preset}{refined}"


def require_disk(options: DistillOptions, folder: Path) -> None:
    """Raise GsdError (exit 8) where a new run would not fit on the disk of `folder`."""
    times = growth(options.student_width, options.student_depth)
    needed = disk_needed(options.teacher, times, options.adapter_ranks(), refining=options.refine is not None)
    if needed is not None and not folder.exists():
        require_room(folder, needed)


def _name_teacher(teacher: str) -> str:
    """The name of a teacher in the name of a run folder: that of its folder, as it is spelt, or of its hub id."""
    place = local_teacher(teacher)
    if place is None or place == Path(teacher).parent:
        return Path(os.path.abspath(teacher)).name
    with suppress(GsdError):  # reported when the teacher is opened
        place = locate_model(place).folder
    return Path(os.path.abspath(place)).name.removesuffix(PICKLE)


def count_steps(options: DistillOptions, epoch: int | None) -> int | None:
    """The length of the run in generator steps; None if it is whatever fits into `--minutes`.

    epoch: images per pass over the data, needed only for `--epochs`.
    """
    if options.steps is not None:
        return options.steps
    if options.minutes is not None and options.kimg is None and options.epochs is None:
        return None
    images = 1000 * (options.kimg or 0) if options.epochs is None else options.epochs * (epoch or 0)
    return max(1, round(images / options.batch_size))


def read_recorded(options: DistillOptions, folder: Path, key: str) -> Any:
    """A value from the options.json of the run to resume; None if there is none."""
    path = folder / OPTIONS
    return read_object(path).get(key) if options.resume and path.exists() else None


def collect_identity(options: DistillOptions) -> dict[str, Any]:
    """The values that a resumed run must share with its record: the mathematics and the teacher."""
    settings = {name: getattr(options, name) for name in DistillSettings.model_fields if name not in _MAY_CHANGE}
    ratios = resolve_ratios(options, choose_data(options))
    prompts = choose_prompts(options)
    encoded = file_sha256(prompts)[:16] if prompts and prompts.is_file() else None
    given = {"teacher": options.teacher, "revision": options.revision, "prompts": encoded, "start": options.start}
    return {**given, **settings, **ratios}


def fingerprint_teacher(teacher: str) -> str | None:
    """The fingerprint of a teacher that is a local folder; None for others, or a folder that cannot be read."""
    place = local_teacher(teacher)
    if place is None:
        return None
    with suppress(GsdError):  # reported when the teacher is opened
        return folder_fingerprint(place)
    return None


def has_decayed(options: DistillOptions, folder: Path, total: int | None) -> bool:
    """Whether the run already lowered its learning rate towards an end that `total` now changes."""
    before = read_recorded(options, folder, "total_steps")
    if not options.lr_decay or before in (None, total):
        return False
    saved = [path.name.removeprefix("step-") for path in checkpoints(folder / CHECKPOINTS)]
    done = max((int(step) for step in saved if step.isdigit()), default=0)
    return done > (1 - options.lr_decay) * min(total or before, before)


def read_finished(
    options: DistillOptions, folder: Path, total: int | None, say: Callable[[str], None]
) -> Result | None:
    """The result of a run that is finished; None where there is something to train. Raises as `check_options`."""
    if not check_options(options, folder, total):
        return None
    say(f"nothing to do: {folder} is finished; --no-resume starts again")
    return read_result(folder)


def read_result(folder: Path) -> Result:
    """The generator of a run, and its figures."""
    card = read_card(folder / GENERATOR)
    return Result([str(folder / GENERATOR)], {"images": card["images"], **card["figures"]})


def check_options(options: DistillOptions, folder: Path, total: int | None) -> bool:
    """Compare the options with the run's record; returns whether the run is finished.

    total: the length in steps; None for a run by the clock, which is never finished. Raises UsageError (exit 2) naming
    the values that differ.
    """
    path = folder / OPTIONS
    if not path.exists() or not options.resume:
        return False
    before = {**DistillSettings().model_dump(), **VALUES_BEFORE, **_translate_record(read_object(path))}
    now = {**collect_identity(options), "teacher": _spell_teacher(options, before), "total_steps": total}
    # the length may change: of the past steps, only a warm-up of the isometric weight and a decay depend on it
    free = _list_unused(options) | {"total_steps"}
    differing = [key for key in now if key not in free and before.get(key) != now[key]]
    if options.assume is not None and not _reads_alike(options.assume, before.get("teacher_reading")):
        now, before = now | {"assume": options.assume}, before | {"assume": before.get("teacher_reading")}
        differing.append("assume")
    if differing and (not options.force or _STUDENT_SIZE & set(differing)):
        changes = ", ".join(f"{key} ({before.get(key)} -> {now[key]})" for key in differing)
        # --force does not help if the checkpoints do not fit the student
        forced = "" if _STUDENT_SIZE & set(differing) else ", or --force to resume"
        raise UsageError(
            [f"{folder} was started with other options: {changes}"],
            hint=f"use its options, another folder with -o, --no-resume to start again{forced}",
        )
    generator = folder / GENERATOR
    if total is None:
        return False
    return (generator / CARD).exists() and read_card(generator).get("steps", 0) >= total and not differing


def resume_command(options: DistillOptions, folder: Path) -> str:
    """The command that resumes the run."""
    return shlex.join(["gsd", "distill", "--teacher", options.teacher, *_list_flags(options), "-o", str(folder)])


def describe_early_end(last: Any, pace: Pace | None) -> str | None:
    """The message about a session whose time ended before the run's given length; None for other sessions."""
    if last is None or pace is None or not last.over or pace.settles:
        return None
    return f"the time is up after {last.step:,} of {last.total:,} steps; the same command resumes the run"


# -- comparison with a record -------------------------------------------------------------------


def _spell_teacher(options: DistillOptions, record: dict[str, Any]) -> str:
    """The teacher as the record spells it, if it is the same by its weights or else by its place; else as given."""
    before, mark = record.get("teacher"), record.get("teacher_mark")
    now = fingerprint_teacher(options.teacher)
    if isinstance(before, str):
        same_place = _locate_teacher(before) == _locate_teacher(options.teacher)
        if now == mark if now and mark else same_place:
            return before
    return options.teacher if options.teacher != before else f"{options.teacher} with other weights"


def _reads_alike(assume: str, recorded: Any) -> bool:
    """Whether --assume agrees with how the run read its teacher; a folder that says everything has no record."""
    return not isinstance(recorded, str) or set(assume.split(",")) <= set(recorded.split(","))


def _locate_teacher(teacher: str) -> str:
    """One spelling for each teacher: its hub id, the absolute path of its folder, or its name."""
    entry = TEACHERS.get(teacher)
    if entry is not None:
        return entry.hub or str((ASSETS / teacher).resolve())
    return str(Path(teacher).resolve()) if Path(teacher).is_dir() else teacher


def _list_unused(options: DistillOptions) -> set[str]:
    """The settings that this run does not use. They may differ, because a default may have changed since."""
    if options.refine is not None:
        return DistillSettings.model_fields.keys() - OF_REFINEMENT
    unused = set() if resolve_ratios(options, choose_data(options))["adversarial"] else _DISCRIMINATOR_SETTINGS
    if options.irl == "off" or options.irl_weight == 0:
        return unused | {"irl_weight", "irl_ratio", "irl_every", "irl_phi", "irl_gradient", "tau_min", "tau_max"}
    return unused | ({"irl_ratio"} if options.irl_weight != "auto" or options.sidl_weight == 0 else set())


def _translate_record(record: dict[str, Any]) -> dict[str, Any]:
    """A record in today's names and values. Before there were discriminator heads, `auto` noise meant `ddpm`."""
    if "discriminator_lr" in record:
        return record
    earlier = {"noise": "ddpm"} if record.get("noise", "auto") == "auto" else {}
    return {**record, **earlier, "adversarial": "another kind" if record.get("adversarial") else 0.0}


def _list_flags(options: DistillOptions) -> list[str]:
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
            switched_off = [f"--no-{option[2:]}"] if DistillOptions.model_fields[name].default else []
            flags += [option] if value else switched_off
        elif value is not None:
            flags += [option, str(value)]
    return flags
