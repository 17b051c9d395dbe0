"""Options of gsd prepare, and of the teacher it may train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from gsd_cli.base.errors import GsdError, UsageError
from gsd_cli.catalogue.file_formats import FILE_SUFFIXES
from gsd_cli.catalogue.registry import DATA_SETS
from gsd_cli.options.common import Common
from gsd_cli.options.fields import NO_FP16, Positive, Share, argument, opt


class FitSettings(BaseModel):
    """How a small DDPM is trained on images."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    architecture: Literal["tiny", "small", "base"] = "small"
    steps: PositiveInt = 20_000
    batch_size: PositiveInt = 64
    lr: Positive = 1e-3
    warmup_steps: NonNegativeInt = 500
    decay: Share = 0.25
    clip_grad: Positive = 1.0
    ema_half_life: Positive = 50_000
    conditional: bool = False
    seed: NonNegativeInt = 0


class PrepareOptions(Common):
    """Turn images into a data set, reference statistics and, if asked, a teacher."""

    source: str = argument(
        ...,
        f"{', '.join(DATA_SETS)}, hf:OWNER/NAME, or a folder, zip, tar or LMDB of images.",
        "SOURCE",
    )
    output: Path | None = opt(
        None, "The zip to write, or with --shards their index; default SOURCE.zip.", short="-o", metavar="DATA.zip"
    )
    size: Annotated[int, Field(ge=8, le=1024, multiple_of=8)] = opt(32, "Side of the pictures, in pixels.")
    grey: bool | None = opt(None, "One channel instead of three; default: as the source is.")
    split: str = opt("train", "Which part of a known data set: train, test or val.", metavar="NAME")
    limit: PositiveInt | None = opt(None, "Stop after this many images.")
    labels: Path | None = opt(
        None,
        "Labels: a CSV of name,label, list_attr_celeba.txt, or EDM's dataset.json; default: the folders' names.",
        metavar="FILE",
    )
    shards: Annotated[int, Field(ge=1, le=999_999)] | None = opt(
        None, "Write this many WebDataset tars and their index DATA.json instead of one zip.", metavar="N"
    )
    workers: PositiveInt | None = opt(None, "Processes that decode and resize; default: one a core.", metavar="N")
    skip_bad: bool = opt(False, "Leave out pictures that cannot be read instead of stopping.")
    force: bool = opt(False, "Overwrite a data set that is already there.")
    fit_teacher: Literal["tiny", "small", "base"] | None = opt(
        None, "Train a DDPM of this size on the data: a teacher for gsd distill.", panel="Training"
    )
    conditional: bool = opt(False, "Make the teacher class-conditional: needs labelled data.", panel="Training")
    fit_features: bool = opt(
        False, "Train a small classifier on the labels: features for Frechet distances.", panel="Training"
    )
    features_net: Literal["residual", "convnext"] = opt(
        "residual",
        "Network of --fit-features; convnext: a second, independent one, in DATA-features-2.",
        panel="Training",
    )
    fit_steps: PositiveInt | None = opt(None, "Training steps of what is fitted.", panel="Training")
    fit_lr: Positive | None = opt(None, "Learning rate of the teacher.", panel="Training")
    precision: Literal["auto", "fp32", "bf16"] = opt("auto", NO_FP16, panel="Common")
    weights: Literal["fp32", "fp16"] = opt("fp32", "How the weights are stored.", panel="Training")


def require_fit(options: PrepareOptions) -> None:
    """Raise UsageError, naming all, for options of a training that was not asked for."""
    fits = {
        "--fit-teacher tiny|small|base": (options.fit_teacher, ("conditional", "fit_lr")),
        "--fit-features": (options.fit_features, ("features_net",)),
        "--fit-teacher or --fit-features": (options.fit_teacher or options.fit_features, ("fit_steps",)),
    }
    idle = {
        flag: [name for name in names if _given(options, name)] for flag, (asked, names) in fits.items() if not asked
    }
    problems = [f"--{name.replace('_', '-')} does nothing without {flag}" for flag in idle for name in idle[flag]]
    if problems:
        raise UsageError(problems, hint=f"add {next(flag for flag in idle if idle[flag])}")


def _given(options: PrepareOptions, name: str) -> bool:
    return bool(getattr(options, name) != PrepareOptions.model_fields[name].default)


def target_file(options: PrepareOptions) -> Path:
    """The zip, or the index of shards. Raises UsageError when it would be the source, or a zip called .json."""
    suffix = ".json" if options.shards else ".zip"
    target = options.output
    if target is None:
        part = "" if options.split == "train" else f"-{options.split}"
        target = Path(f"{Path(options.source).resolve().name.split('.')[0].partition('@')[0]}{part}{suffix}")
    elif options.shards and target.suffix != suffix:
        target = target.with_suffix(suffix)
    elif not options.shards and target.suffix in (".json", ".tar"):
        what = "the index of shards" if target.suffix == ".json" else "a shard"
        raise UsageError([f"{target}: {target.suffix} is {what}"], hint="add --shards N, or write a .zip")
    elif not options.shards and target.suffix != suffix and target.suffix.lower() in FILE_SUFFIXES:
        raise UsageError([f"{target}: a data set is a .zip, or shards"], hint=f"-o {target.with_suffix(suffix)}")
    if target.exists() and Path(options.source).exists() and target.samefile(options.source):
        raise UsageError([f"{target} is the source itself"], hint="choose another name with -o")
    return target


def fit_settings(options: PrepareOptions) -> FitSettings:
    """How the teacher is trained. Raises GsdError where none was asked for."""
    if options.fit_teacher is None:
        raise GsdError("no teacher was asked for")
    given: dict[str, Any] = {"steps": options.fit_steps, "lr": options.fit_lr}
    return FitSettings(
        architecture=options.fit_teacher,
        batch_size=options.batch_size,
        seed=options.seed,
        conditional=options.conditional,
        **{key: value for key, value in given.items() if value is not None},
    )
