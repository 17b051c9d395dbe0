"""The noise levels of a discrete DDPM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.catalogue.families import BETAS
from gsd_cli.core.models.chain import Chain
from gsd_cli.core.models.precondition import Precondition
from gsd_cli.core.models.schedule import MAX_STEPS, NoiseSchedule


def _deviation(sigma: Tensor) -> Tensor:
    """The standard deviation of x for data of variance 1; a DDPM's input is divided by it (Ho et al. 2020)."""
    return (1 + sigma**2).sqrt()


def _clean_of_v(raw: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    scale = _deviation(sigma)
    return x / scale**2 - (sigma / scale) * raw


OUTPUTS = {
    "epsilon": Precondition(_deviation, lambda raw, x, sigma: x - sigma * raw, lambda sigma: sigma),
    # v = alpha n - sigma y in the variance-preserving scale (Salimans and Ho 2022)
    "v_prediction": Precondition(_deviation, _clean_of_v, lambda sigma: sigma / _deviation(sigma)),
    "sample": Precondition(_deviation, lambda raw, x, sigma: raw, torch.ones_like),
}


@dataclass(frozen=True)
class BetaSchedule(NoiseSchedule):
    """The noise levels of a discrete DDPM (Ho et al. 2020), in variance-exploding scale.

    `alphas_bar`: float64 [T], the running product of (1 - beta_t), decreasing in t.
    """

    alphas_bar: Tensor
    family = BETAS
    outputs = OUTPUTS

    @classmethod
    def linear(cls, steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> BetaSchedule:
        """Ho et al.'s schedule: beta linear in t."""
        betas = torch.linspace(start, end, steps, dtype=torch.float64)
        return cls(torch.cumprod(1 - betas, 0))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> BetaSchedule:
        """Read a diffusers scheduler config. Raises GsdError (exit 3) for an unknown schedule."""
        if config.get("rescale_betas_zero_snr"):
            raise GsdError(
                "the teacher's schedule ends at zero signal (rescale_betas_zero_snr)",
                hint="sigma is infinite there; use a teacher without it",
            )
        try:
            betas = cls._betas(config)
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise GsdError(f"the schedule is not made of numbers: {error}", hint="the file is damaged") from error
        if betas.ndim != 1 or len(betas) < 2 or not ((betas > 0) & (betas < 1)).all():
            raise GsdError("the schedule's betas are not between 0 and 1", hint="the file is damaged")
        return cls(torch.cumprod(1 - betas, 0))

    @staticmethod
    def _betas(config: Mapping[str, Any]) -> Tensor:
        steps = int(config.get("num_train_timesteps", 1000))
        if not 2 <= steps <= MAX_STEPS:
            raise ValueError(f"{steps} timesteps")
        start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
        kind = config.get("beta_schedule", "linear")
        if (given := config.get("trained_betas")) is not None:
            return torch.tensor(given, dtype=torch.float64)
        if kind == "linear":
            return torch.linspace(start, end, steps, dtype=torch.float64)
        if kind == "scaled_linear":
            return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
        if kind == "sigmoid":  # of GeoDiff (Xu et al. 2022)
            return torch.linspace(-6, 6, steps, dtype=torch.float64).sigmoid() * (end - start) + start
        if kind == "squaredcos_cap_v2":
            u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
            bar = torch.cos((u + 0.008) / 1.008 * torch.pi / 2) ** 2
            return (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
        raise GsdError(
            f"unknown beta schedule {kind!r}",
            hint="known: linear, scaled_linear, squaredcos_cap_v2, sigmoid, trained_betas",
        )

    @property
    def sigmas(self) -> Tensor:
        """sigma_t = sqrt((1 - alpha_bar_t) / alpha_bar_t), float64 [T], increasing in t."""
        return ((1 - self.alphas_bar) / self.alphas_bar).sqrt()

    @property
    def own_steps(self) -> int:
        """Ancestral sampling visits every level."""
        return len(self.alphas_bar)

    @property
    def facts(self) -> Tensor:
        """alpha_bar, float64 [T]."""
        return self.alphas_bar

    def timestep(self, sigma: Tensor) -> Tensor:
        """The fractional t at which the schedule reaches sigma, clamped to [0, T - 1]; float32."""
        return self.index(sigma)

    def to_scheduler(self, prediction: str, chain: Chain) -> Any:
        """A DDPMScheduler."""
        from diffusers import DDPMScheduler

        betas = 1 - self.alphas_bar / torch.cat([torch.ones(1).double(), self.alphas_bar[:-1]])
        # betas that were rounded to float32 are kept as they are
        even = torch.linspace(betas[0], betas[-1], len(betas), dtype=torch.float64)
        linear = torch.allclose(betas, even, rtol=1e-9, atol=1e-12)
        return DDPMScheduler(
            num_train_timesteps=self.steps,
            beta_start=float(f"{betas[0]:.12g}"),
            beta_end=float(f"{betas[-1]:.12g}"),
            beta_schedule="linear",
            trained_betas=None if linear else betas.tolist(),
            prediction_type=prediction,
            **chain.to_config(),
        )
