"""Options of gsd prepare, and settings of the teacher that it can train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from gsd_cli.options.common import Common
from gsd_cli.options.fields import NO_FP16, Positive, Share, argument, opt


class FitSettings(BaseModel):
    """Settings for training a small DDPM on images."""

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
    """Turn images into a data set with statistics, and optionally train a teacher."""

    source: str = argument(
        ...,
        "Images: cifar10, fashion-mnist, celeba-hq, lsun-bedroom, lsun-church, hf:OWNER/NAME, "
        "or a folder, zip, tar or LMDB.",
        "SOURCE",
    )
    output: Path | None = opt(
        None, "Zip to write, or the index of --shards; default: SOURCE.zip.", short="-o", metavar="DATA.zip"
    )
    size: Annotated[int, Field(ge=8, le=1024, multiple_of=8)] = opt(32, "Width and height of the images, in pixels.")
    grey: bool | None = opt(None, "Store one channel instead of three; default: like the source.")
    split: str = opt("train", "Part of the source to read: train, test or val.", metavar="NAME")
    limit: PositiveInt | None = opt(None, "Stop after this many images.")
    labels: Path | None = opt(
        None,
        "Label file: a CSV of name,label, list_attr_celeba.txt or EDM's dataset.json; default: folder names.",
        metavar="FILE",
    )
    shards: Annotated[int, Field(ge=1, le=999_999)] | None = opt(
        None, "Write N WebDataset tar files and their index DATA.json instead of one zip.", metavar="N"
    )
    workers: PositiveInt | None = opt(
        None, "Processes that decode and resize images; default: one per core.", metavar="N"
    )
    skip_bad: bool = opt(False, "Skip images that cannot be read instead of stopping.")
    force: bool = opt(False, "Overwrite an existing data set.")
    fit_teacher: Literal["tiny", "small", "base"] | None = opt(
        None, "Train a DDPM of this size on the data, as a teacher for gsd distill.", panel="Training"
    )
    conditional: bool = opt(False, "Train a class-conditional teacher; needs labelled data.", panel="Training")
    fit_features: bool = opt(
        False, "Train a small classifier on the labels, whose features serve for Frechet distances.", panel="Training"
    )
    features_net: Literal["residual", "convnext"] = opt(
        "residual",
        "Network of --fit-features. convnext: a second, independent network, written to DATA-features-2.",
        panel="Training",
    )
    fit_steps: PositiveInt | None = opt(None, "Training steps for --fit-teacher or --fit-features.", panel="Training")
    fit_lr: Positive | None = opt(None, "Learning rate for --fit-teacher.", panel="Training")
    precision: Literal["auto", "fp32", "bf16"] = opt("auto", NO_FP16, panel="Common")
    weights: Literal["fp32", "fp16"] = opt("fp32", "Number format of the stored weights.", panel="Training")
