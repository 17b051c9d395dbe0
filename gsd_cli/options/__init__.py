"""The options of every subcommand: one frozen model each, the single source of flags, help, defaults,
environment variables, config keys and a run's options.json. No heavy imports here."""

from gsd_cli.options.bench import BenchOptions
from gsd_cli.options.common import Common
from gsd_cli.options.distill import PRESETS, DistillOptions, DistillSettings
from gsd_cli.options.edit import EditOptions
from gsd_cli.options.interpolate import InterpolateOptions
from gsd_cli.options.invert import InvertOptions, InvertSettings
from gsd_cli.options.prepare import FitSettings, PrepareOptions
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
