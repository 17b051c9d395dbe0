"""The options of every subcommand, one frozen pydantic model each.

The models are the single source of flags, help texts, defaults, environment variables, config keys and a run's
options.json. Nothing heavy is imported here. A model is imported when it is first used, because a command needs only
one of them and should print its first line quickly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gsd_cli.options.bench import BenchOptions
    from gsd_cli.options.common import Common
    from gsd_cli.options.distill import DistillOptions, DistillSettings
    from gsd_cli.options.edit import EditOptions
    from gsd_cli.options.interpolate import InterpolateOptions
    from gsd_cli.options.invert import InvertOptions, InvertSettings
    from gsd_cli.options.prepare import FitSettings, PrepareOptions
    from gsd_cli.options.presets import PRESETS
    from gsd_cli.options.sample import SampleOptions

__all__ = [
    "PRESETS",
    "BenchOptions",
    "Common",
    "DistillOptions",
    "DistillSettings",
    "EditOptions",
    "FitSettings",
    "InterpolateOptions",
    "InvertOptions",
    "InvertSettings",
    "PrepareOptions",
    "SampleOptions",
]

_OTHER_HOMES = {"PRESETS": "presets", "FitSettings": "prepare"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _OTHER_HOMES.get(name) or name.removesuffix("Options").removesuffix("Settings").lower()
    return getattr(import_module(f"{__name__}.{home}"), name)


def __dir__() -> list[str]:
    return __all__
