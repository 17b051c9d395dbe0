"""The settings of diffusers' multistep DPM-Solver++, with which teachers of two kinds of diffusion are sampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gsd_cli.base.errors import GsdError

SETTINGS: dict[str, Callable[[Any], bool]] = {
    "solver_order": lambda value: value in (1, 2, 3),
    "solver_type": lambda value: value in ("midpoint", "heun"),
    "thresholding": lambda value: isinstance(value, bool),
    "dynamic_thresholding_ratio": lambda value: isinstance(value, int | float) and 0 <= value <= 1,
    "sample_max_value": lambda value: isinstance(value, int | float) and value >= 1,
    "lower_order_final": lambda value: isinstance(value, bool),
    "euler_at_final": lambda value: isinstance(value, bool),
}
"""Those that change the teacher's own sampler and nothing else, with what they may be."""


def read_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a scheduler's config. Raises GsdError (exit 3) for a value that no scheduler has."""
    found = {key: config[key] for key in SETTINGS if key in config}
    for key, value in found.items():
        if not SETTINGS[key](value):
            raise GsdError(f"the teacher's scheduler has {key} {value!r}", hint="see its config; msa needs it")
    return found


def require_deterministic(config: Mapping[str, Any]) -> None:
    """Raise GsdError (exit 3) for a solver that adds noise."""
    if str(config.get("algorithm_type", "")).startswith("sde"):
        raise GsdError(
            "the teacher's own sampler adds noise (algorithm_type sde-dpmsolver++), which gsd does not support",
            hint="set algorithm_type to dpmsolver++ in its scheduler config: it changes the sampler msa alone",
        )
