"""How a teacher's own pipeline samples: what its scheduler's config says beyond the noise levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.core.models.config_check import LEARNED

VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", *LEARNED)
SPACINGS = ("leading", "linspace", "trailing")
CLIP_BY_DEFAULT = ("DDPM", "DDIM", "CogVideoX", "RePaint", "UnCLIP")
"""How the names of those schedulers of diffusers begin that clip where their config does not say whether; the others,
PNDM's and Euler's among them, do not. A config without a name is taken for DDPM's."""


@dataclass(frozen=True)
class Chain:
    """The settings of a discrete chain, with the names and meanings of diffusers' DDPMScheduler.

    variance: of the noise in an ancestral step: the posterior's (`fixed_small`) or beta_t (`fixed_large`), Ho et al.
    (2020), section 3.2; the `_log` forms are the same numbers. `learned`: the network's second output; `learned_range`:
    that output places it between these two, on a logarithmic scale (Nichol and Dhariwal 2021, eq. 15).
    spacing, offset: how fewer steps than T are chosen.
    clip: the bound of the clean estimate; None if it is not clipped. threshold: ratio and largest value of dynamic
    thresholding (Saharia et al. 2022), which takes the place of clipping. ends_clean: whether the last DDIM step goes
    to the clean estimate rather than to the first noise level (`set_alpha_to_one`).

    The defaults are those of the teachers that gsd trains. A config that leaves a key out has diffusers' default,
    `fixed_small` among them.
    """

    variance: str = "fixed_large"
    spacing: str = "leading"
    offset: int = 0
    clip: float | None = 1.0
    threshold: tuple[float, float] | None = None
    ends_clean: bool = True

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Chain:
        """Read a diffusers scheduler config. Raises GsdError (exit 3) for a value that is unknown or not supported."""
        # a DPM-Solver's variance_type is null where its network predicts none
        variance, spacing = config.get("variance_type") or "fixed_small", config.get("timestep_spacing", "leading")
        for key, value, known in (("variance_type", variance, VARIANCES), ("timestep_spacing", spacing, SPACINGS)):
            if value not in known:
                raise GsdError(f"the teacher's scheduler has {key} {value!r}", hint=f"known: {', '.join(known)}")
        try:
            clips = config.get("clip_sample", str(config.get("_class_name", "DDPM")).startswith(CLIP_BY_DEFAULT))
            clip = float(config.get("clip_sample_range", 1.0)) if clips else None
            limits = float(config.get("dynamic_thresholding_ratio", 0.995)), float(config.get("sample_max_value", 1.0))
            offset = int(config.get("steps_offset", 0))
        except (TypeError, ValueError) as error:
            raise GsdError(f"the scheduler's settings are no numbers: {error}", hint="the file is damaged") from error
        if not (0 <= limits[0] <= 1 and limits[1] >= 1 and offset >= 0 and (clip is None or clip > 0)):
            raise GsdError(
                "the scheduler's clipping, thresholding or steps_offset is out of range",
                hint="see its config",
            )
        threshold = limits if config.get("thresholding") else None
        return cls(variance, spacing, offset, clip, threshold, bool(config.get("set_alpha_to_one", True)))

    def to_config(self) -> dict[str, Any]:
        """The settings as arguments of diffusers' DDPMScheduler, which has none for `ends_clean`."""
        ratio, largest = self.threshold or (0.995, 1.0)
        return {
            "variance_type": self.variance,
            "timestep_spacing": self.spacing,
            "steps_offset": self.offset,
            "clip_sample": self.clip is not None,
            "clip_sample_range": 1.0 if self.clip is None else self.clip,
            "thresholding": self.threshold is not None,
            "dynamic_thresholding_ratio": ratio,
            "sample_max_value": largest,
        }

    @property
    def limits(self) -> bool:
        """Whether the clean estimate is clipped or thresholded."""
        return self.clip is not None or self.threshold is not None

    def limit(self, clean: Tensor) -> Tensor:
        """The clean estimate [B, C, H, W], thresholded or clipped as these settings say."""
        if self.threshold is not None:
            ratio, largest = self.threshold
            bound = clean.flatten(1).abs().quantile(ratio, dim=1).clamp(1, largest).reshape(-1, 1, 1, 1)
            return torch.maximum(torch.minimum(clean, bound), -bound) / bound
        return clean if self.clip is None else clean.clamp(-self.clip, self.clip)

    def deviation(self, bar: Tensor, previous: Tensor, predicted: Tensor | None = None) -> Tensor:
        """The standard deviation of the noise in an ancestral step from alpha_bar `bar` to `previous`, [] each.

        predicted: the network's second output [B, C, H, W], of which a learnt variance is a function; the deviation has
        its shape then.
        """
        beta = 1 - bar / previous
        posterior = (beta * (1 - previous) / (1 - bar)).clamp(min=1e-20)
        if self.variance in LEARNED:
            assert predicted is not None
            if self.variance == "learned":
                return predicted.clamp(min=0).sqrt()
            share = (predicted + 1) / 2
            return (share * beta.log() / 2 + (1 - share) * posterior.log() / 2).exp()
        return posterior.sqrt() if self.variance.startswith("fixed_small") else beta.sqrt()

    def timesteps(self, total: int, steps: int) -> list[int]:
        """`steps` distinct timesteps of 0..total - 1, from high to low.

        They are diffusers'. The exceptions are one step and, with leading spacing, a number of steps that does not
        divide `total`: diffusers' multiples of total // steps would begin far below total - 1 (at 599 of 1000 for
        600 steps), where the noise that a chain starts from is too strong. These begin at total - 1 and are evenly
        spaced down to 0. Raises GsdError (exit 2) for a number of steps outside 1..total.
        """
        require_steps(total, steps)
        if steps == 1:
            return [total - 1]
        if self.spacing == "trailing":
            levels = np.round(total - np.arange(steps) * (total / steps)) - 1
        elif self.spacing == "leading" and total % steps == 0:
            stride = total // steps
            levels = np.arange(steps)[::-1] * stride + min(self.offset, stride - 1)
        else:
            levels = np.linspace(0, total - 1, steps).round()[::-1]
        found: list[int] = levels.astype(int).tolist()
        return found


def require_steps(total: int, steps: int) -> None:
    """Raise GsdError (exit 2) where a chain of `total` noise levels cannot take `steps` steps."""
    if not 1 <= steps <= total:
        raise GsdError(
            f"{steps} steps of a teacher with {total} noise levels",
            hint=f"give 1 to {total} steps: a discrete chain visits each level at most once",
            code=ExitCode.USAGE,
        )
