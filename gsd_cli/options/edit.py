"""Options of gsd edit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from gsd_cli.base.errors import UsageError
from gsd_cli.catalogue.exports import Backend
from gsd_cli.catalogue.file_formats import AnimationFormat
from gsd_cli.catalogue.model_facts import COMPONENTS
from gsd_cli.catalogue.registry import MEASURED_ATTRIBUTES
from gsd_cli.options.common import Common
from gsd_cli.options.edit_conflicts import explorer_problems, text_problems
from gsd_cli.options.fields import (
    BACKEND_HELP,
    CLASS,
    EXACT,
    FORMAT,
    MODEL,
    PROMPTS_HELP,
    SCALE_HELP,
    Positive,
    Scale,
    argument,
    opt,
)
from gsd_cli.options.invert import InvertSettings, safetensors_file

OF_THE_MODEL = re.compile(rf"{COMPONENTS}|(pc|jac)\d*")
"""Names of the model's own directions, and of the file that holds them: nothing that is learnt may have one."""


def _fit_source(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[^=:/]+=[^:]+:[^:]+", value):
        raise ValueError(f"{value!r} is not NAME=POSITIVE_DIR:NEGATIVE_DIR")
    if value is not None and OF_THE_MODEL.fullmatch(value.partition("=")[0]):
        raise ValueError(f"{value.partition('=')[0]} is a name of the model's own directions; choose another")
    return value


def _moves(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[^=,]+=[-+]?[\d.]+(,[^=,]+=[-+]?[\d.]+)*", value):
        raise ValueError(f"{value!r} is not NAME=STRENGTH,NAME=STRENGTH")
    return value


LARGEST = 20.0
LARGEST_HINT = "a strength is a number of standard deviations over images; few images lie beyond 3"


class EditOptions(Common, InvertSettings):
    """Edit an attribute of an image, or move it along a direction or toward a text."""

    precision: Literal["auto", "fp32"] = opt("auto", EXACT, panel="Common")
    image: str | None = argument(None, "Image: a file, - for stdin, a saved latent, seed:42 or example:bag.", "[IMAGE]")
    attribute: str | None = opt(
        None,
        "Attribute to change: brightness, contrast, width, height, symmetry, a class, or a name given to --fit.",
        metavar="NAME",
    )
    direction: str | None = opt(
        None,
        "Direction to move along instead: pc0, pc1, ... (principal components), jac0, jac1, ... (found for this "
        "image), or a file that --save-direction wrote.",
        metavar="pcK|jacK|FILE",
    )
    toward: str | None = opt(
        None,
        "Text toward which the image's prompt moves while its latent stays, for text-conditional models. Strength 0 is "
        "the prompt, 1 (the default with --toward) this text; more goes beyond it.",
        metavar="TEXT",
    )
    prompt: str | None = opt(
        None,
        "Text of the image, for text-conditional models: it is inverted and edited under it. Default: the first that "
        "the model keeps.",
        metavar="TEXT",
    )
    prompts: Path | None = opt(None, PROMPTS_HELP, metavar="FILE")
    strength: Annotated[float, Field(ge=-LARGEST, le=LARGEST)] = opt(
        2.0,
        "Size of the edit: the change on this image, in standard deviations over the generator's samples. With "
        "--toward: the share of the way.",
    )
    range: Annotated[str, Field(pattern=r"^-?[\d.]+:-?[\d.]+:\d+$")] | None = opt(
        None, "Write a strip of N strengths from A to B, as in --range=-3:3:7.", metavar="A:B:N"
    )
    method: Literal["auto", "image", "direction"] = opt(
        "auto",
        "image: edit each image until it shows the change, and keep the rest of it. direction: move every image by the "
        "same length. auto: image for attributes, direction for directions.",
    )
    move: Annotated[str | None, AfterValidator(_moves)] = opt(
        None,
        "Move along several directions at once, each by its own length: attributes, classes and components.",
        metavar="NAME=S,NAME=S",
    )
    truncation: Annotated[float, Field(gt=0, le=1)] = opt(
        1.0, "Multiply the latent of IMAGE by this factor (above 0, at most 1) before it is edited."
    )
    preserve: str | None = opt(
        None, "Attributes to keep as they are, more strictly than by default; comma-separated.", metavar="NAME,NAME"
    )
    list: bool = opt(False, "List attributes and directions, then exit; with -o FILE.png, also draw each of them.")
    explore: Path | None = opt(
        None,
        "Write a page to this folder that runs the generator in the browser: sliders, walks, neighbours. IMAGE, if "
        "given, is carried along as a latent.",
        panel="Explorer",
        metavar="DIR",
    )
    open: bool = opt(
        False, "Serve the page of --explore on this machine and open it; Ctrl-C ends it.", panel="Explorer"
    )
    model: str | None = MODEL
    class_: str | None = CLASS
    backend: Backend | None = opt(None, BACKEND_HELP, metavar="torch|onnx")
    output: str = opt(
        "edit.png",
        "Output: a .png or .jpg image (a strip with --range), a .gif, .webp or .mp4, or a folder; - writes to stdout.",
        short="-o",
        metavar="PATH",
    )
    format: AnimationFormat = FORMAT
    fps: Annotated[Positive, Field(le=1000)] = opt(4.0, "Frames per second of an animation.")
    scale: Scale | None = opt(None, f"{SCALE_HELP} Default: 1; animations get at least 128 pixels.", metavar="K")
    fit: Annotated[str | None, AfterValidator(_fit_source)] = opt(
        None, "Learn an attribute from two folders of images.", panel="Directions", metavar="NAME=POSITIVE:NEGATIVE"
    )
    data: Path | None = opt(
        None, "Prepared data set whose labels --attribute can name.", panel="Directions", metavar="DATA.zip"
    )
    space: Literal["auto", "latent", "bottleneck"] = opt(
        "auto", "Space of the direction. auto: the one that works better for the attribute.", panel="Directions"
    )
    fit_samples: Annotated[int, Field(ge=32, le=1_000_000)] = opt(
        1024, "Samples used to find a direction.", panel="Directions"
    )
    save_direction: Annotated[Path | None, AfterValidator(safetensors_file)] = opt(
        None,
        "Save the direction to this file, with its measures; --direction takes it. Needs no IMAGE.",
        panel="Directions",
        metavar="F.safetensors",
    )

    @model_validator(mode="before")
    @classmethod
    def _whole_way(cls, values: Any) -> Any:
        """A text is reached at strength 1, which is no number of standard deviations."""
        if isinstance(values, dict) and values.get("toward") is not None and not values.keys() & {"strength", "range"}:
            return {**values, "strength": 1.0}
        return values

    @model_validator(mode="after")
    def _one_direction(self) -> EditOptions:
        given = {name for name in self.model_fields_set if getattr(self, name) not in (None, False)}
        problems = [*explorer_problems(given), *_move_problems(self), *_saving_problems(self), *text_problems(given)]
        if self.data is not None and OF_THE_MODEL.fullmatch(self.attribute or ""):
            problems.append(f"--attribute {self.attribute} is a name of the model's own directions, not of a label")
        if self.attribute is not None and self.direction is not None:
            problems.append("give --attribute or --direction, not both")
        if self.range is not None and "strength" in self.model_fields_set:
            problems.append("give --strength or --range, not both")
        if self.list and self.output == "-":
            problems.append("--list draws its strips to a file: give -o all.png")
        if (wrong := self._space_of_kind()) is not None:
            problems.append(wrong)
        if self.direction is not None and self.method == "image":
            problems.append("--method image needs --attribute: a direction has no measure to reach")
        if self.method == "image" and self.space != "auto" and self.attribute in MEASURED_ATTRIBUTES:
            problems.append(
                f"--space: {self.attribute} is solved for in the latent; use --method direction with --space"
            )
        if self.backend == "onnx" and self.attribute is not None and self.method != "direction":
            problems.append(
                "--backend onnx needs --method direction or --direction pcK: an edit of one image takes gradients"
            )
        if self.data is not None and self.attribute is None:
            problems.append("--data needs --attribute to name one of its labels")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _space_of_kind(self) -> str | None:
        """What is wrong with --space for this --direction: each kind lives in one space."""
        for kind, space in (("pc", "bottleneck"), ("jac", "latent")):
            if re.fullmatch(rf"{kind}\d+", self.direction or "") and self.space not in ("auto", space):
                return f"--space {self.space}: {self.direction} is a direction of the {space}"
        return None


def _move_problems(options: EditOptions) -> list[str]:
    """What contradicts --move, which names directions and strengths itself."""
    if options.move is None:
        return []
    others = (
        "attribute",
        "direction",
        "fit",
        "data",
        "strength",
        "range",
        "method",
        "preserve",
        "list",
        "save_direction",
    )
    given = [f"--{name.replace('_', '-')}" for name in others if name in options.model_fields_set]
    problems = [f"--move names directions and strengths: leave out {', '.join(given)}"] if given else []
    try:
        parse_moves(options.move)
    except UsageError as error:
        problems += error.problems
    return problems


def _saving_problems(options: EditOptions) -> Iterator[str]:
    """What is missing for an image, a list, a page or a direction, and what contradicts --save-direction."""
    if options.list and options.save_direction is not None:
        yield "--list names what there is, --save-direction saves one of it: give one of the two"
    if options.image is not None or options.list or options.explore is not None:
        return
    if options.save_direction is None:
        yield "give an IMAGE, --list, --save-direction or --explore DIR"
    elif options.output == "-":
        yield "-o - needs an IMAGE: --save-direction writes its own file"
    if is_of_image(options):
        yield f"--direction {options.direction} is found for an image: give an IMAGE"


def parse_moves(text: str) -> dict[str, float]:
    """The strength by name of each direction of --move. Raises UsageError for what is no number, or named twice."""
    moves: dict[str, float] = {}
    for part in text.split(","):
        name, _, given = part.strip().partition("=")
        try:
            strength = float(given)
        except ValueError:
            raise UsageError([f"--move: {given!r} is no strength"], hint="--move=brightness=1,pc0=-2") from None
        if name in moves:
            raise UsageError([f"--move names {name} twice"])
        if abs(strength) > LARGEST:
            raise UsageError([f"--move: strengths are at most {LARGEST:g} in size"], hint=LARGEST_HINT)
        moves[name] = strength
    return moves


def resolve_strengths(options: EditOptions) -> list[float]:
    """The strengths of --strength or --range; [1] with --move. Raises UsageError for a bad range."""
    if options.move is not None:
        return [1.0]
    if options.range is None:
        return [options.strength]
    first, last, count = options.range.split(":")
    try:
        a, b, n = float(first), float(last), int(count)
    except ValueError:
        raise UsageError([f"--range: {options.range!r} does not have the form A:B:N"], hint="--range=-3:3:7") from None
    if not 2 <= n <= 1000:
        raise UsageError([f"--range: {n} strengths; give 2 to 1000"], hint="--range=-3:3:7")
    if max(abs(a), abs(b)) > LARGEST:
        raise UsageError([f"--range: strengths are at most {LARGEST:g} in size"], hint=LARGEST_HINT)
    return [a + (b - a) * i / (n - 1) for i in range(n)]


def resolve_direction_name(options: EditOptions) -> str:
    """What the image is moved along or toward: an attribute, a direction or a text. Raises UsageError for nothing."""
    name = options.attribute or options.direction or learnt_name(options) or options.move or options.toward
    if name is None:
        raise UsageError(
            ["give --attribute NAME or --direction pcK: what is to be edited"], hint="gsd edit --list names both"
        )
    return name


def is_of_image(options: EditOptions) -> bool:
    """Whether the direction is one that is found for an image: jacK."""
    return bool(re.fullmatch(r"jac\d*", options.direction or ""))


def learnt_name(options: EditOptions) -> str | None:
    """The attribute that --fit learns."""
    return options.fit.partition("=")[0] if options.fit else None


def naming_option(options: EditOptions) -> str:
    """The option that names what is edited, for messages."""
    return "--attribute" if options.attribute else "--direction" if options.direction else "--fit"
