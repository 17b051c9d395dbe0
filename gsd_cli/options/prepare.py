"""Options of gsd prepare, and settings of the teacher that it can train."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, field_validator

from gsd_cli.base.errors import GsdError, UsageError
from gsd_cli.catalogue.file_formats import FILE_SUFFIXES
from gsd_cli.catalogue.registry import DATA_SETS
from gsd_cli.options.common import Common
from gsd_cli.options.fields import NO_FP16, Positive, Share, argument, opt

TEACHER_STEPS, TEACHER_STEPS_ON_CPU = 20_000, 3000
"""Training steps of --fit-teacher without --fit-steps. On two cores the fewer steps take one to two hours for a `small`
teacher of 32 x 32, and the more steps half a day."""
PROMPTS_SUFFIX = ".safetensors"
DEFAULT_TEXT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
"""22.7 million parameters, vectors of 384 numbers, Apache-2.0."""
FEATURE_STEPS = 2000
"""Training steps of --fit-features without --fit-steps."""


class FitSettings(BaseModel):
    """Settings for training a small diffusion model on images."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    architecture: Literal["tiny", "small", "base"] = "small"
    objective: Literal["eps", "flow"] = "eps"
    steps: PositiveInt = TEACHER_STEPS
    batch_size: PositiveInt = 64
    lr: Positive = 1e-3
    warmup_steps: NonNegativeInt = 500
    decay: Share = 0.25
    clip_grad: Positive = 1.0
    ema_half_life: Positive = 50_000
    conditional: bool = False
    text_encoder: str | None = None
    seed: NonNegativeInt = 0


class PrepareOptions(Common):
    """Turn images into a data set with statistics, and optionally train a teacher; or encode prompts."""

    source: str = argument(
        ...,
        f"Images: {', '.join(DATA_SETS)}, hf:OWNER/NAME, or a folder, zip, tar or LMDB. With --teacher: a text file of "
        "prompts.",
        "SOURCE",
    )
    output: Path | None = opt(
        None,
        "Zip to write, or the index of --shards; default: SOURCE.zip. With --teacher: a .safetensors file.",
        short="-o",
        metavar="DATA.zip",
    )
    size: Annotated[int, Field(ge=8, le=1024, multiple_of=8)] = opt(32, "Width and height of the images, in pixels.")
    grey: bool | None = opt(None, "Store one channel instead of three; default: if all images are grey.")
    value_range: Annotated[str, Field(pattern=r"^-?[\d.]+(e[+-]?\d+)?:-?[\d.]+(e[+-]?\d+)?$")] | None = opt(
        None,
        "Values that become black and white in float, 16-bit and signed images, as in --value-range=-1:1; "
        "default: what the files declare, else what they show.",
        metavar="LOW:HIGH",
    )
    split: str = opt("train", "Part of the source to read: train, test or val.", metavar="NAME")
    limit: PositiveInt | None = opt(None, "Take this many images, of each class in proportion.")
    labels: Path | None = opt(
        None,
        "Label file: a CSV of name,label, list_attr_celeba.txt or EDM's dataset.json; default: folder names.",
        metavar="FILE",
    )
    captions: Path | None = opt(
        None,
        "Captions: a CSV of name,caption, a metadata.jsonl of file_name and text, COCO's annotations, or a folder of "
        ".txt files. With --fit-teacher, the teacher is text-conditional.",
        metavar="FILE|FOLDER",
    )
    shards: Annotated[int, Field(ge=1, le=999_999)] | None = opt(
        None, "Write N WebDataset tar files and their index DATA.json instead of one zip.", metavar="N"
    )
    workers: PositiveInt | None = opt(
        None, "Processes that decode and resize images; default: one per core.", metavar="N"
    )
    skip_bad: bool = opt(
        False,
        "Leave out images that cannot be read or that --labels or --captions does not name, instead of stopping.",
    )
    force: bool = opt(False, "Overwrite an existing data set.")
    teacher: str | None = opt(
        None,
        "Encode prompts for this text-conditional teacher: SOURCE is a text file, one prompt per line, and the output "
        "is for gsd distill --prompts.",
        metavar="NAME|FOLDER|HUB_ID",
    )
    fit_teacher: Literal["tiny", "small", "base"] | None = opt(
        None,
        "Train a diffusion model of this size on the data, as a teacher for gsd distill: tiny has 0.04 million "
        "parameters (for trials), small 1.7, base 24 (for a GPU).",
        panel="Training",
    )
    conditional: bool = opt(False, "Train a class-conditional teacher; needs labelled data.", panel="Training")
    text_encoder: str | None = opt(
        None,
        "Sentence encoder of a teacher that is trained on --captions; default: all-MiniLM-L6-v2 from the hub.",
        metavar="FOLDER|HUB_ID",
        panel="Training",
    )
    fit_features: bool = opt(
        False, "Train a small classifier on the labels, whose features serve for Frechet distances.", panel="Training"
    )
    features_net: Literal["residual", "convnext"] = opt(
        "residual",
        "Network of --fit-features. convnext: a second, independent network, written to DATA-features-2.",
        panel="Training",
    )
    fit_objective: Literal["eps", "flow"] = opt(
        "eps",
        "What the teacher predicts. eps: the noise of a DDPM. flow: the velocity of flow matching.",
        panel="Training",
    )
    fit_steps: PositiveInt | None = opt(
        None,
        f"Training steps for --fit-teacher or --fit-features; default: {TEACHER_STEPS:,} for a teacher "
        f"({TEACHER_STEPS_ON_CPU:,} on a CPU, one to two hours on two cores), {FEATURE_STEPS:,} for features.",
        panel="Training",
    )
    fit_lr: Positive | None = opt(None, "Learning rate for --fit-teacher; default: 0.001.", panel="Training")
    precision: Literal["auto", "fp32", "bf16"] = opt("auto", NO_FP16, panel="Common")
    weights: Literal["fp32", "fp16"] = opt("fp32", "Number format of the stored weights.", panel="Training")

    @field_validator("output", mode="before")
    @classmethod
    def _require_file(cls, value: Any) -> Any:
        """A path cannot say that it ended with a slash."""
        if isinstance(value, str) and value.endswith(("/", os.sep)):
            raise ValueError(f"{value} is a folder, a file is needed: {value}DATA.zip")
        return value


def require_consistent_training(options: PrepareOptions) -> None:
    """Raise UsageError, which names all options for a training that was not selected."""
    fits = {
        "--fit-teacher tiny|small|base": (
            options.fit_teacher,
            ("conditional", "fit_objective", "fit_lr", "text_encoder"),
        ),
        "--captions FILE": (options.captions, ("text_encoder",)),
        "--fit-features": (options.fit_features, ("features_net",)),
        "--fit-teacher or --fit-features": (options.fit_teacher or options.fit_features, ("fit_steps",)),
    }
    idle = {
        flag: [name for name in names if _is_changed(options, name)]
        for flag, (asked, names) in fits.items()
        if not asked
    }
    problems = [f"--{name.replace('_', '-')} does nothing without {flag}" for flag in idle for name in idle[flag]]
    if options.teacher is not None and (asked := [name for name in _OF_IMAGES if _is_changed(options, name)]):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in asked)
        raise UsageError([f"--teacher encodes prompts, and {flags} is about images"], hint="leave out one of them")
    if options.captions is not None and options.conditional:
        raise UsageError(["--conditional trains on classes, and --captions on texts"], hint="leave out one of them")
    if problems:
        raise UsageError(problems, hint=f"add {next(flag for flag in idle if idle[flag])}")


_OF_IMAGES = (
    "size", "grey", "value_range", "split", "limit", "labels", "captions", "shards", "workers", "skip_bad",
    "fit_teacher", "fit_features",
)  # fmt: skip
"""Options that mean nothing for prompts."""


def _is_changed(options: PrepareOptions, name: str) -> bool:
    return bool(getattr(options, name) != PrepareOptions.model_fields[name].default)


def resolve_target(options: PrepareOptions) -> Path:
    """The zip or the index of shards to write; a name without a suffix of files gets its own.

    Raises UsageError if it is stdout, the source, or has the wrong suffix.
    """
    suffix = ".json" if options.shards else ".zip"
    target = options.output
    if options.teacher is not None:
        return _resolve_prompts_target(options)
    if target is None:
        part = "" if options.split == "train" else f"-{options.split}"
        target = Path(f"{Path(options.source).resolve().name.split('.')[0].partition('@')[0]}{part}{suffix}")
    elif target == Path("-") or (target.exists() and not (target.is_file() or target.is_dir())):
        cause = "a data set is not written to a stream, because a zip is not written in order"
        raise UsageError([f"-o {target}: {cause}"], hint=f"-o DATA{suffix}")
    elif target.is_dir():
        return target  # refused as a folder, with its exit code
    elif target.suffix.lower() not in FILE_SUFFIXES:
        target = target.with_name(f"{target.name}{suffix}")
    elif options.shards:
        target = target.with_suffix(suffix)
    elif target.suffix in (".json", ".tar"):
        what = "the index of shards" if target.suffix == ".json" else "a shard"
        raise UsageError([f"{target}: {target.suffix} is {what}"], hint="add --shards N, or write a .zip")
    elif target.suffix.lower() != suffix:
        raise UsageError([f"{target}: a data set is a .zip or shards"], hint=f"-o {target.with_suffix(suffix)}")
    if target.exists() and Path(options.source).exists() and target.samefile(options.source):
        raise UsageError([f"{target} is the source itself"], hint="choose another name with -o")
    return target


def _resolve_prompts_target(options: PrepareOptions) -> Path:
    """The file of encoded prompts: --output, else the source with another suffix."""
    target = options.output or Path(Path(options.source).with_suffix(PROMPTS_SUFFIX).name)
    if target.suffix != PROMPTS_SUFFIX:
        fitting = target.with_suffix(PROMPTS_SUFFIX)
        raise UsageError([f"{target}: prompts are written as {PROMPTS_SUFFIX}"], hint=f"-o {fitting}")
    return target


def resolve_value_range(options: PrepareOptions) -> tuple[float, float] | None:
    """The numbers of --value-range. Raises UsageError where they are none, or not in this order."""
    if options.value_range is None:
        return None
    try:
        low, high = (float(part) for part in options.value_range.split(":"))
    except ValueError:
        low = high = 0.0
    if not low < high:
        raise UsageError([f"--value-range: {options.value_range!r} is no LOW:HIGH"], hint="--value-range=0:4095")
    return low, high


def resolve_fit_settings(options: PrepareOptions, *, on_cpu: bool) -> FitSettings:
    """Settings for training the teacher, with fewer steps on a CPU. Raises GsdError without --fit-teacher."""
    if options.fit_teacher is None:
        raise GsdError("--fit-teacher is not given")
    steps = options.fit_steps or (TEACHER_STEPS_ON_CPU if on_cpu else TEACHER_STEPS)
    given: dict[str, Any] = {"steps": steps, "lr": options.fit_lr}
    return FitSettings(
        architecture=options.fit_teacher,
        objective=options.fit_objective,
        batch_size=options.batch_size,
        seed=options.seed,
        conditional=options.conditional,
        text_encoder=(options.text_encoder or DEFAULT_TEXT_ENCODER) if options.captions is not None else None,
        **{key: value for key, value in given.items() if value is not None},
    )
