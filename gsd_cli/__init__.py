"""gsd turns a pretrained diffusion model into a one-step generator, from the shell or from Python.

`import gsd_cli` is fast: torch is loaded by the first call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gsd_cli.api import Latents, bench, distill, edit, export, interpolate, invert, prepare, sample
    from gsd_cli.base.console import Result
    from gsd_cli.base.errors import GsdError
    from gsd_cli.options import (
        BenchOptions,
        DistillOptions,
        EditOptions,
        InterpolateOptions,
        InvertOptions,
        PrepareOptions,
        SampleOptions,
    )

__all__ = [
    "BenchOptions",
    "DistillOptions",
    "EditOptions",
    "GsdError",
    "InterpolateOptions",
    "InvertOptions",
    "Latents",
    "PrepareOptions",
    "Result",
    "SampleOptions",
    "bench",
    "distill",
    "edit",
    "export",
    "interpolate",
    "invert",
    "prepare",
    "sample",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gsd_cli import api, options
    from gsd_cli.base import console, errors

    homes = {"GsdError": errors, "Result": console}
    return getattr(homes.get(name, options if name.endswith("Options") else api), name)


def __dir__() -> list[str]:
    return __all__
