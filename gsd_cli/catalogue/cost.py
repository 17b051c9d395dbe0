"""The cost of a run, from file sizes and formulas, for --dry-run. No heavy imports."""

from __future__ import annotations

import json

from gsd_cli.base.errors import GsdError
from gsd_cli.base.text import format_bytes, plural
from gsd_cli.catalogue.bare_files import is_bare
from gsd_cli.catalogue.diffusers_layout import locate_model
from gsd_cli.catalogue.find import find_model, local_teacher, read_card
from gsd_cli.catalogue.model_facts import call_count, describe_calls
from gsd_cli.catalogue.registry import TEACHERS

VALUES_TRAINED, STUDENT_TRAINED = 5, 5
"""float32 numbers that training keeps per parameter of the teacher (teacher, fake score, a gradient, two Adam moments)
and of the student (generator, its average, a gradient, two Adam moments)."""
VALUES_SAVED, STUDENT_SAVED = 3, 4
"""Numbers in a checkpoint per parameter of the teacher (the fake score and its Adam moments) and of the student
(generator, its average, Adam moments)."""
CHECKPOINTS_KEPT = 2


Ranks = tuple[int, int]
"""The ranks of the adapters of the generator and the fake score, 0 for a whole network."""


def distillation(
    teacher: str, passes: float, own_passes: float = 0, growth: float = 1, ranks: Ranks = (0, 0),
    state_bytes: int | None = None, *, refining: bool = False,
) -> list[str]:  # fmt: skip
    """Lines on the work, memory and disk space of a distillation; none where the teacher's size is unknown.

    passes: forward passes of all networks, `own_passes` of them the generator's, which has `growth` times the
    teacher's parameters. state_bytes: the memory before activations, if it was counted; else that of whole networks in
    fp32. refining: see `disk_needed`.
    """
    parameters = teacher_parameters(teacher)
    if parameters is None:
        return []
    student, disk = growth * parameters, disk_needed(teacher, growth, ranks, refining=refining) or 0
    work = f"about {passes:,.0f} forward passes of {parameters / 1e6:.1f} M parameters"
    if growth > 1:
        work = f"about {passes - own_passes:,.0f} forward passes of {parameters / 1e6:.1f} M parameters"
        work += f" and {own_passes:,.0f} of the student's {student / 1e6:.1f} M"
    memory = 4 * (VALUES_TRAINED * parameters + STUDENT_TRAINED * student) if state_bytes is None else state_bytes
    return [f"{work}; {format_bytes(memory)} of memory before activations, {format_bytes(disk)} of disk"]


def disk_needed(teacher: str, growth: float = 1, ranks: Ranks = (0, 0), *, refining: bool = False) -> int | None:
    """Bytes of the checkpoints and the generator of a run at its largest; None where the teacher's size is unknown.

    growth: how many times the teacher's parameters the student has. Adapters are small, and do not count. refining:
    whether one network learns the second call of a generator that is there, without a fake score (`--refine`).
    """
    parameters = teacher_parameters(teacher)
    if parameters is None:
        return None
    if refining:
        return 4 * parameters * (CHECKPOINTS_KEPT * STUDENT_SAVED + 2)
    generator, fake = ranks
    in_checkpoint = (0 if fake else VALUES_SAVED) + (0 if generator else growth * STUDENT_SAVED)
    saved = CHECKPOINTS_KEPT * in_checkpoint + growth
    return round(4 * saved * parameters)


def growth(width: int, depth: int) -> float:
    """The approximate ratio of a student's parameters to its teacher's; core/distillation/growth.py is exact."""
    return width**2 * depth


def teacher_parameters(spec: str) -> int | None:
    """The number of parameters of a teacher, by name or from the size of its weights; None when unknown."""
    if spec in TEACHERS:
        return TEACHERS[spec].parameters
    place = local_teacher(spec)
    if place is None or is_bare(place):  # a checkpoint of a training also holds averages and optimizer states
        return None
    try:
        weights = locate_model(place).find_weights()
    except GsdError:  # reported when the teacher is opened
        return None
    halves = weights is not None and weights.variant in ("fp16", "bf16")
    return weights.size // (2 if halves else 4) or None if weights else None


def describe_sample_size(model: str | None, count: int, refining: int = 0) -> str:
    """`64 images (one network call each, 66 kB of pixels)`, or with the calls of a generator of several steps.

    refining: calls of the teacher per image.
    """
    counted = plural(count, "image")
    try:
        folder = find_model(model)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        calls = describe_calls(call_count(read_card(folder)) + refining)
        pixels = count * int(config["sample_size"]) ** 2 * int(config["in_channels"])
    except (GsdError, OSError, ValueError, KeyError, TypeError):
        return counted
    return f"{counted} ({calls} each, {format_bytes(pixels)} of pixels)"
