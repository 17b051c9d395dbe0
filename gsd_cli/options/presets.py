"""The presets of `gsd distill --preset`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic import BaseModel

Options = TypeVar("Options", bound="BaseModel")

_OURS: dict[str, Any] = {"batch_size": 32, "lr": 1e-4, "fake_lr": 2e-4, "lr_decay": 0.5, "ema_ramp": 0.4}

PRESETS: dict[str, dict[str, Any]] = {
    "quick": {**_OURS, "kimg": 11, "eval_every": 5.5, "eval_samples": 1000},
    "standard": {**_OURS, "kimg": 100, "eval_every": 10},
    "long": {**_OURS, "kimg": 1000, "eval_every": 20},
    "paper": {
        "epochs": 100,
        "eval_every": 50,
        "lr": 1e-4,
        "adversarial": "off",
        "noise": "ddpm",
        "fake_score": "plain",
    },
    "sid": {
        "kimg": 400_000,
        "eval_every": 1000,
        "batch_size": 256,
        "lr": 1e-5,
        "alpha": 1.2,
        "ema_half_life": 500_000,
        "adversarial": "off",
        "noise": "ddpm",
        "fake_score": "plain",
        "precision": "fp32",
    },
}
"""Defaults by preset. Any flag, variable or config key overrides them.

Evaluations take less than a twentieth of a run, so longer runs evaluate less often and the short run uses fewer
samples. The weights of short runs fluctuate, so their moving average is longer. SiD was trained in float32 without
TF32.
"""


_OF_ADAPTERS = {"fake_lr": 1e-3}
"""In our presets with --adapters: a LoRA needs a higher rate than a whole network (docs/experiments.md)."""

_OF_REFINEMENT = {"lr": 2e-4, "beta1": 0.9}
"""In all presets with --refine, whose loss is a mean square of one network and needs no caution."""


def apply_preset(values: dict[str, Any], origins: dict[str, str]) -> None:
    """Add the preset's defaults to `values` where no value is given, and record them in `origins`."""
    preset = values.get("preset", "quick")
    lengths = {"kimg", "steps", "epochs", "minutes"}
    found = PRESETS.get(preset, {}) if isinstance(preset, str) else {}
    if values.get("refine") is not None:
        found = {**found, **_OF_REFINEMENT}
    elif _OF_ADAPTERS.keys() <= found.keys() and str(values.get("adapters", "off")) != "off":
        found = {**found, **_OF_ADAPTERS}
    for name, value in found.items():
        # a length given in one unit replaces the preset's in another
        taken = lengths & values.keys() if name in lengths else name in values
        if not taken:
            values[name], origins[name] = value, f"preset {preset}"


def with_preset(options: Options) -> Options:
    """Add the preset's defaults to options of gsd distill from Python, where no value is given."""
    values = options.model_dump(include=options.model_fields_set)
    apply_preset(values, {})
    return type(options).model_validate(values)
