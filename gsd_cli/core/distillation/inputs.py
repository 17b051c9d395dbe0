"""Which images a distillation uses, chosen from its options and the files that exist. Needs no torch, opens nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gsd_cli.base.storage import ASSETS
from gsd_cli.catalogue.find import read_card
from gsd_cli.catalogue.registry import SAMPLES_BY, TEACHER, TEACHERS
from gsd_cli.catalogue.run_layout import CARD, DATA_SUFFIX, PROMPTS_SUFFIX, next_to_teacher
from gsd_cli.options import DistillOptions
from gsd_cli.options.distill import FITTED_FORMS

Origin = Literal["given", "prepared", "bundled", "teacher", "none"]
SAMPLER = SAMPLES_BY.replace("dpm++", "DPM-Solver++")


@dataclass(frozen=True)
class ImageChoice:
    """The data sets of a distillation.

    origin: where the discriminator's images come from. shown: the data set that the discriminator sees; None for
    `none`, and for `teacher` until its samples exist. measured: the real images that give reference statistics, epochs
    and standard deviations; None without them. The bundled images do not count: they are a part of the images behind
    the bundled statistics.
    """

    origin: Origin
    shown: Path | None
    measured: Path | None


def choose_data(options: DistillOptions) -> ImageChoice:
    """--data; else the data set next to a teacher of `gsd prepare`; else the images bundled with the teacher."""
    prepared = next_to_teacher(options.teacher, DATA_SUFFIX)
    if options.data == TEACHER:
        return ImageChoice("teacher", None, prepared)
    if options.data is not None:
        given = Path(options.data)
        return ImageChoice("given", given, given)
    if prepared is not None:
        return ImageChoice("prepared", prepared, prepared)
    entry = TEACHERS.get(options.teacher)
    if entry is not None and entry.data is not None:
        return ImageChoice("bundled", ASSETS / entry.data, None)
    return ImageChoice("none", None, None)


def choose_prompts(options: DistillOptions) -> Path | None:
    """--prompts; else the encoded captions next to a teacher that `gsd prepare --captions` trained on them."""
    found = next_to_teacher(options.teacher, PROMPTS_SUFFIX)
    if options.prompts is not None or found is None:
        return options.prompts
    card = Path(options.teacher) / CARD
    return found if card.is_file() and read_card(card.parent).get("captions") else None


def uses_images(options: DistillOptions) -> bool:
    """Whether real images are used: by a discriminator, for feature matching, or by an isometric form that is fitted
    to their clusters."""
    fitted = options.irl in FITTED_FORMS and options.irl_weight != 0 and options.refine is None
    return fitted or any(resolve_ratios(options, choose_data(options)).values())


def resolve_ratios(options: DistillOptions, data: ImageChoice) -> dict[str, float]:
    """The values of `--adversarial` and `--feature-matching` for these images, with `auto` resolved."""
    return options.ratios(real=data.origin != "none")


def describe_images(data: ImageChoice, *, shown: bool = True, count: int | None = None) -> str:
    """One line on the real images that a distillation uses.

    shown: whether a discriminator sees them. count: their number, if it is known.
    """
    number = "" if count is None else f"{count:,} "
    if data.origin == "none":
        return "real images: none (data-free distillation)"
    if not shown:
        return "real images: none used, because there is no discriminator (data-free distillation)"
    if data.origin == "teacher":
        return f"real images: none; the teacher's own {number}samples replace them ({SAMPLER}, cached)"
    if data.origin == "bundled":
        return f"real images: {number}bundled training images ({Path(data.shown or '').stem})"
    where = "from --data" if data.origin == "given" else "next to the teacher"
    return f"real images: {number}{where}, {data.shown}"
