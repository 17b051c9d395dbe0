"""The generator that a distillation starts from (`--start`)."""

from __future__ import annotations

from collections.abc import Iterator

from gsd_cli.base.errors import ExitCode, GsdError, UsageError
from gsd_cli.core.models.generator import Model, load_model
from gsd_cli.core.models.teacher import Teacher
from gsd_cli.options import DistillSettings

FAKE_WARMUP = 20.0
"""Thousands of images in which the fake score learns the images of a generator that does not start as the teacher. A
fake score that is a copy of the teacher sees no difference between the two, and Adam would follow its noise."""


def open_start(name: str | None, teacher: Teacher, settings: DistillSettings) -> Model | None:
    """The generator `name`, in float32, with the teacher's prompts; None for none.

    Raises GsdError: exit 3 if it cannot be read or makes other images than the teacher, exit 2 if it is called at
    another noise level than the run's, or has a second network and these settings do not fit it.
    """
    if name is None:
        return None
    model = load_model(name)
    generator = model.generator
    ours, theirs = generator.denoiser, teacher.denoiser
    if (ours.shape, ours.classes) != (theirs.shape, theirs.classes):
        raise GsdError(
            f"{name} makes images of {ours.shape} in {ours.classes or 'no'} classes, the teacher {theirs.shape} in "
            f"{theirs.classes or 'no'}",
            hint="start from a generator that was distilled from this teacher",
        )
    if generator.sigma_init != settings.sigma_init:
        raise GsdError(
            f"{name} calls its network at sigma {generator.sigma_init:g}, this run at {settings.sigma_init:g}",
            hint=f"give --sigma-init {generator.sigma_init:g}",
            code=ExitCode.USAGE,
        )
    if generator.later is not None and (problems := list(_second_network_problems(settings))):
        made = model.card.get("settings", {})  # a run that went on with the second network names where it began
        first = f", or start from the first call: {made['start']}" if made.get("refine") is not None else ""
        raise UsageError(
            [f"{name} has a second network for its second call: {problem}" for problem in problems],
            hint=f"leave it out{first}",
        )
    generator.float()
    if not theirs.prompts.none:  # it keeps only some of the prompts it was trained on
        ours.give_prompts(theirs.prompts, theirs.empty_prompt)
    return model


def _second_network_problems(settings: DistillSettings) -> Iterator[str]:
    """Which of these settings do not fit a run that trains a second network."""
    if settings.refine is not None:
        yield "--refine adds one to a generator of one call"
    for flag in ("student_steps", "student_width", "student_depth"):
        if getattr(settings, flag) != 1:
            yield f"--{flag.replace('_', '-')} does not change it"
    if settings.shard:
        yield "--shard does not cut it"
