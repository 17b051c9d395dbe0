"""The noise levels of a discrete diffusion model, in variance-exploding scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.compute.device import DeviceConstant

MAX_STEPS = 1_000_000


@dataclass(frozen=True)
class NoiseSchedule:
    """The noise levels of a discrete DDPM (Ho et al. 2020), in variance-exploding scale.

    `alphas_bar`: float64 [T], the running product of (1 - beta_t), decreasing in t.
    """

    alphas_bar: Tensor

    @classmethod
    def linear(cls, steps: int = 1000, start: float = 1e-4, end: float = 0.02) -> NoiseSchedule:
        """Ho et al.'s schedule: beta linear in t."""
        betas = torch.linspace(start, end, steps, dtype=torch.float64)
        return cls(torch.cumprod(1 - betas, 0))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> NoiseSchedule:
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
    def steps(self) -> int:
        """T, the number of discrete levels."""
        return len(self.alphas_bar)

    @property
    def sigmas(self) -> Tensor:
        """sigma_t = sqrt((1 - alpha_bar_t) / alpha_bar_t), float64 [T], increasing in t."""
        return ((1 - self.alphas_bar) / self.alphas_bar).sqrt()

    @cached_property
    def log_sigmas(self) -> DeviceConstant:
        """log sigma_t, [T], increasing in t."""
        return DeviceConstant(self.sigmas.log())

    def sigma(self, t: Tensor) -> Tensor:
        """sigma at (fractional) t, interpolated linearly in log sigma; float32, t's shape."""
        log_sigmas = self.log_sigmas.on(t.device)
        t = t.to(log_sigmas.dtype).clamp(0, self.steps - 1)
        low = t.floor().long().clamp(max=self.steps - 2)
        return torch.lerp(log_sigmas[low], log_sigmas[low + 1], t - low).exp().float()

    def timestep(self, sigma: Tensor) -> Tensor:
        """The fractional t at which the schedule reaches sigma, clamped to [0, T - 1]; float32."""
        log_sigmas = self.log_sigmas.on(sigma.device)
        wanted = sigma.to(log_sigmas.dtype).log()
        high = torch.searchsorted(log_sigmas, wanted.contiguous()).clamp(1, self.steps - 1)
        below, above = log_sigmas[high - 1], log_sigmas[high]
        t = high - 1 + (wanted - below) / (above - below)
        return t.clamp(0, self.steps - 1).float()
