"""Which images a distillation uses, decided from its options and from what exists. Nothing is opened; no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gsd_cli.base.storage import ASSETS
from gsd_cli.catalogue.registry import SAMPLES_BY, TEACHER, TEACHERS
from gsd_cli.catalogue.run_layout import DATA_SUFFIX, next_to_teacher
from gsd_cli.options import DistillOptions
from gsd_cli.options.distill import FITTED_FORMS

Origin = Literal["given", "prepared", "bundled", "teacher", "none"]
SAMPLER = SAMPLES_BY.replace("dpm++", "DPM-Solver++")


@dataclass(frozen=True)
class DistillData:
    """The images of a distillation.

    origin: where the discriminator's images come from. shown: their data set; None for `none`, and for `teacher`
    until its samples are made. measured: the real images that distances, epochs and standard deviations are of;
    None where there are none but the bundled ones, which are a part of what the bundled statistics are of.
    """

    origin: Origin
    shown: Path | None
    measured: Path | None


def choose_data(options: DistillOptions) -> DistillData:
    """--data; else what `gsd prepare` left next to a teacher it fitted; else what is bundled with the teacher."""
    prepared = next_to_teacher(options.teacher, DATA_SUFFIX)
    if options.data == TEACHER:
        return DistillData("teacher", None, prepared)
    if options.data is not None:
        given = Path(options.data)
        return DistillData("given", given, given)
    if prepared is not None:
        return DistillData("prepared", prepared, prepared)
    entry = TEACHERS.get(options.teacher)
    if entry is not None and entry.data is not None:
        return DistillData("bundled", ASSETS / entry.data, None)
    return DistillData("none", None, None)


def uses_images(options: DistillOptions) -> bool:
    """Whether real images are looked at: by a discriminator, for their mean features, or by an isometric form that
    takes their clusters."""
    fitted = options.irl in FITTED_FORMS and options.irl_weight != 0
    return fitted or any(ratios(options, choose_data(options)).values())


def ratios(options: DistillOptions, data: DistillData) -> dict[str, float]:
    """What `--adversarial` and `--feature-matching` come to with these real images."""
    return options.ratios(real=data.origin != "none")


def describe(data: DistillData, *, shown: bool = True, count: int | None = None) -> str:
    """One line: the real images that a distillation uses. shown: whether it has a discriminator that sees them;
    count: how many there are, where it is known."""
    number = "" if count is None else f"{count:,} "
    if data.origin == "none":
        return "real images: none (data-free distillation)"
    if not shown:
        return "real images: none used, for there is no discriminator (data-free distillation)"
    if data.origin == "teacher":
        return f"real images: none; the teacher's own {number}samples stand in ({SAMPLER}, cached)"
    if data.origin == "bundled":
        return f"real images: {number}bundled training images ({Path(data.shown or '').stem})"
    where = "from --data" if data.origin == "given" else "next to the teacher"
    return f"real images: {number}{where}, {data.shown}"
