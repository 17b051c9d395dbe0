"""Options of gsd prepare, and of the teacher it may train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

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
