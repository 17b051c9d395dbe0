"""Options that every subcommand takes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from gsd_cli.options.fields import Device, opt


class Common(BaseModel):
    """Options that every subcommand takes."""

    # by field name and by alias: the option is class_ in Python and class in a config file
    model_config = ConfigDict(
        frozen=True, defer_build=True, extra="forbid", validate_by_name=True, validate_by_alias=True
    )

    device: Device = opt(
        "auto", "Device to compute on: auto, cpu, cuda, cuda:1 or mps.", panel="Common", metavar="DEVICE"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = opt(
        "auto",
        "Number format of the networks. auto: fp32, or bf16 for a network of latents on a GPU. fp32 turns TF32 off.",
        panel="Common",
    )
    threads: PositiveInt | None = opt(
        None, "Threads to compute with on a CPU; default: one per core that gsd may use.", panel="Common", metavar="N"
    )
    batch_size: PositiveInt = opt(64, "Images per batch.", panel="Common")
    seed: NonNegativeInt = opt(0, "Random seed; the images of gsd sample use --seeds instead.", panel="Common")
    offline: bool = opt(False, "Never use the network.", panel="Common")
    cache_dir: Path | None = opt(
        None, "Cache folder; default: the platform's cache folder for gsd.", panel="Common", metavar="DIR"
    )
    json_: bool = Field(
        default=False,
        alias="json",
        description="Print one JSON object on stdout instead of paths.",
        json_schema_extra={"panel": "Common", "short": None, "metavar": ""},
    )
    show: bool = opt(False, "Show the resulting image in the terminal.", panel="Common")
    quiet: bool = opt(False, "Print only errors on stderr.", panel="Common", short="-q")
    verbose: bool = opt(False, "Print more detail on stderr.", panel="Common", short="-v")
