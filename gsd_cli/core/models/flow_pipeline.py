"""How a flow's levels depend on the network: its dynamic shift, and the steps of its own pipeline. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gsd_cli.base.errors import GsdError

SHIFT_TYPES = ("exponential", "linear")


@dataclass(frozen=True)
class FlowPipeline:
    """What the pipeline of a network makes of its scheduler.

    patches: of an image, the length of its sequence. even: whether its n steps begin at the times 1, 1 - 1/n, ..., 1/n,
    before they are shifted; else the scheduler chooses them. steps: their default number; None for the scheduler's.
    """

    patches: int
    even: bool = False
    steps: int | None = None


@dataclass(frozen=True)
class DynamicShift:
    """A shift that grows with the image (Esser et al. 2024, section 5.3.2): diffusers' `use_dynamic_shifting`.

    mu is linear in the number of patches: `base_shift` at `base_length`, `max_shift` at `max_length`. The shift f of
    t' = f t / (1 + (f - 1) t) is exp(mu), or mu itself with the kind `linear`.
    """

    base_shift: float = 0.5
    max_shift: float = 1.15
    base_length: int = 256
    max_length: int = 4096
    kind: str = "exponential"

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DynamicShift | None:
        """Read a diffusers scheduler config; None for one without a dynamic shift.

        Raises GsdError (exit 3) for values that are none.
        """
        if not config.get("use_dynamic_shifting"):
            return None
        kind = config.get("time_shift_type") or SHIFT_TYPES[0]
        if kind not in SHIFT_TYPES:
            raise GsdError(
                f"the teacher's scheduler has time_shift_type {kind!r}", hint=f"known: {', '.join(SHIFT_TYPES)}"
            )
        keys = {"base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096}
        values = [default if config.get(key) is None else config[key] for key, default in keys.items()]
        plausible = all(isinstance(value, int | float) and abs(value) < 1e6 for value in values)
        if not plausible or not 0 < values[2] < values[3] or max(map(abs, values[:2])) > 20:
            stated = ", ".join(f"{key} {value!r}" for key, value in zip(keys, values, strict=True))
            raise GsdError(f"the teacher's scheduler has a dynamic shift with {stated}", hint="the file is damaged")
        return cls(float(values[0]), float(values[1]), int(values[2]), int(values[3]), kind)

    def mu(self, patches: int) -> float:
        """mu of images of this many patches."""
        slope = (self.max_shift - self.base_shift) / (self.max_length - self.base_length)
        return self.base_shift + slope * (patches - self.base_length)

    def factor(self, patches: int) -> float:
        """The shift of images of this many patches. Raises GsdError (exit 3) where it is not positive."""
        mu = self.mu(patches)
        if self.kind == "exponential":
            return math.exp(mu)
        if mu <= 0:
            raise GsdError(
                f"the teacher's scheduler has a linear dynamic shift of {mu:g} for images of {patches} patches",
                hint="it must be positive; see its config",
            )
        return mu

    def to_config(self) -> dict[str, Any]:
        """The settings as arguments of diffusers' FlowMatchEulerDiscreteScheduler."""
        return {
            "use_dynamic_shifting": True,
            "base_shift": self.base_shift,
            "max_shift": self.max_shift,
            "base_image_seq_len": self.base_length,
            "max_image_seq_len": self.max_length,
            "time_shift_type": self.kind,
        }
