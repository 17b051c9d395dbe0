"""Types for the fields of option models, and the two functions that declare a field."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat
from pydantic.config import JsonDict

Share = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d{1,3})?", value):
        raise ValueError(f"{value!r} is not a device; use auto, cpu, cuda, cuda:1 or mps")
    return value


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"must be a finite number, not {value}")
    return value


def _as_tuple(value: Any) -> Any:
    """One text, as an environment variable or a config file may give it, as a tuple of one."""
    return (value,) if isinstance(value, str) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
Device = Annotated[str, AfterValidator(_device)]
Positive = Annotated[PositiveFloat, AfterValidator(_finite)]
Finite = Annotated[float, AfterValidator(_finite)]


def opt(default: Any, help: str, *, panel: str = "Options", short: str | None = None, metavar: str = "") -> Any:
    """Declare a field that is an option, with its help, panel, short flag and metavar."""
    extra: JsonDict = {"panel": panel, "short": short, "metavar": metavar}
    return Field(default, description=help, json_schema_extra=extra)


def repeated(help: str, *, panel: str = "Options", metavar: str = "") -> Any:
    """Declare a field of `Texts`, an option that may be given several times."""
    extra: JsonDict = {"panel": panel, "metavar": metavar, "repeated": True}
    return Field((), description=help, json_schema_extra=extra)


def argument(default: Any, help: str, metavar: str) -> Any:
    """Declare a field that is a positional argument."""
    return Field(default, description=help, json_schema_extra={"argument": True, "metavar": metavar})


MODEL = opt(
    None,
    "Run folder, generator folder or bundled model; default: the newest run, else the bundled model.",
    metavar="MODEL",
)
MODEL_OR_FILE = opt(
    None,
    "Run folder, generator folder, bundled model or exported FILE.onnx; default: the newest run, else the bundled "
    "model.",
    metavar="MODEL",
)
CLASS = Field(
    None,
    alias="class",
    description="Class to generate, by number or name; for class-conditional models.",
    json_schema_extra={"panel": "Options", "short": None, "metavar": "K"},
)
BACKEND_HELP = (
    "What makes the images: torch, or onnxruntime from a file that is exported once into the cache. A model FILE.onnx "
    "is always run by onnxruntime."
)
EXPORT_PRECISION = opt(
    "fp32",
    "Number format of the weights in the exported file. fp16 and int8 make it smaller; calls stay in fp32.",
    panel="Export",
)
NO_FP16 = (
    "Number format of the training. auto: bf16 on hardware that supports it (on a CPU: if it is faster), else fp32. "
    "fp32 turns TF32 off."
)
"""Training offers no fp16: its gradients would have to be scaled, and it is no faster than bf16."""
EXACT = "Number format of the networks; always fp32, because nearly equal images are compared."
PROMPTS_HELP = (
    "Prompts as gsd prepare wrote them, so that no text encoder is needed; --prompt then names some of them, word for "
    "word."
)
REFINE_HELP = (
    "Refine each image with K calls of the teacher, 2 to 64: noise of a low level is added and removed. Closer to real "
    "images, at K more calls per image."
)
Refine = Annotated[int, Field(ge=2, le=64)]
FORMAT = opt("png", "File format for -o -, or for the images in a folder.")
LARGEST_SCALE = 16
Scale = Annotated[int, Field(ge=1, le=LARGEST_SCALE)]
SCALE_HELP = "Enlarge every image K times (1 to 16): each pixel becomes a square of K x K."
