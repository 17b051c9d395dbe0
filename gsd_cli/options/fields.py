"""Types of the fields of option models, and the two ways to declare a field: option or argument."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PositiveFloat
from pydantic.config import JsonDict

Share = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value):
        raise ValueError(f"{value!r} is no device; use auto, cpu, cuda, cuda:1 or mps")
    return value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"must be a finite number, not {value}")
    return value


Device = Annotated[str, AfterValidator(_device)]
Positive = Annotated[PositiveFloat, AfterValidator(_finite)]
Finite = Annotated[float, AfterValidator(_finite)]


def opt(default: Any, help: str, *, panel: str = "Options", short: str | None = None, metavar: str = "") -> Any:
    """A field that is an option: its help, panel, short flag and metavar."""
    extra: JsonDict = {"panel": panel, "short": short, "metavar": metavar}
    return Field(default, description=help, json_schema_extra=extra)


def argument(default: Any, help: str, metavar: str) -> Any:
    """A field that is a positional argument."""
    return Field(default, description=help, json_schema_extra={"argument": True, "metavar": metavar})


MODEL = opt(None, "A run, a generator folder or a bundled name; default: newest run, else bundled.", metavar="MODEL")
CLASS = Field(
    None,
    alias="class",
    description="The class to make, by number or name, of a class-conditional model.",
    json_schema_extra={"panel": "Options", "short": None, "metavar": "K"},
)
NO_FP16 = "Arithmetic of the training; auto is bf16 where the hardware has it, fp32 elsewhere (fp32: without TF32)."
"""No fp16: it would need scaled gradients, and it is not faster than bf16."""
EXACT = "Arithmetic of the networks: fp32 in any case, for near images are compared."
FORMAT = opt("png", "What -o - writes.")
