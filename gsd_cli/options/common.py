"""Options that every subcommand takes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from gsd_cli.options.fields import Device, opt


class Common(BaseModel):
    """Options that every subcommand takes."""

    # by name too: from Python an option is class_, in a file it is class
    model_config = ConfigDict(
        frozen=True, defer_build=True, extra="forbid", validate_by_name=True, validate_by_alias=True
    )

    device: Device = opt("auto", "Where to compute: auto, cpu, cuda, cuda:1, mps.", panel="Common", metavar="DEVICE")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = opt(
        "auto",
        "Arithmetic of the networks; auto is bf16 where a GPU has it, fp32 elsewhere (fp32: without TF32).",
        panel="Common",
    )
    batch_size: PositiveInt = opt(64, "Images computed at a time.", panel="Common")
    seed: NonNegativeInt = opt(0, "Seed of everything random that --seeds does not name.", panel="Common")
    offline: bool = opt(False, "Never use the network.", panel="Common")
    cache_dir: Path | None = opt(None, "Where caches live.", panel="Common", metavar="DIR")
    json_: bool = Field(
        default=False,
        alias="json",
        description="Print one JSON object on stdout instead of paths.",
        json_schema_extra={"panel": "Common", "short": None, "metavar": ""},
    )
    show: bool = opt(False, "Show the picture on the terminal.", panel="Common")
    quiet: bool = opt(False, "Nothing on stderr but errors.", panel="Common", short="-q")
    verbose: bool = opt(False, "More on stderr.", panel="Common", short="-v")
