"""Noise: the levels of a diffusion model, and latents that depend on their seed alone."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gsd_cli.core.device import DeviceConstant
from gsd_cli.errors import GsdError

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
        """Read a diffusers scheduler config. Raises GsdError for a schedule we do not know."""
        if config.get("rescale_betas_zero_snr"):
            raise GsdError(
                "the teacher's schedule ends at zero signal (rescale_betas_zero_snr)",
                hint="sigma is infinite there; use a teacher without it",
            )
        try:
            betas = cls._betas(config)
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise GsdError(f"the schedule holds what is no number: {error}", hint="the file is damaged") from error
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
        if kind == "squaredcos_cap_v2":
            u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
            bar = torch.cos((u + 0.008) / 1.008 * torch.pi / 2) ** 2
            return (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
        raise GsdError(
            f"unknown beta schedule {kind!r}",
            hint="known: linear, scaled_linear, squaredcos_cap_v2, trained_betas",
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


def generator_for(seed: int, *stream: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A random generator that is a function of (seed, stream): nothing else, no state to save."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in stream]
    mixed = np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(mixed >> np.uint64(1)))


def latents(seeds: Sequence[int], shape: Sequence[int], stream: str = "latent") -> Tensor:
    """z ~ N(0, I) for each seed, float32 [len(seeds), *shape]; image k depends on seed k alone."""
    return torch.stack([torch.randn(*shape, generator=generator_for(s, stream)) for s in seeds])


def normal_rows(rows: Sequence[int], shape: Sequence[int], seed: int, *stream: int | str) -> Tensor:
    """N(0, I) for each row number, float32 [len(rows), *shape]; a row depends on (seed, stream, number) alone."""
    return torch.stack([torch.randn(*shape, generator=generator_for(seed, *stream, row)) for row in rows])


def seed_labels(seeds: Sequence[int], classes: int | None) -> Tensor | None:
    """The class of each seed's image, uniform over the classes: int64 [len(seeds)]; None without classes."""
    if not classes:
        return None
    return torch.stack([torch.randint(classes, (), generator=generator_for(s, "class")) for s in seeds])


def slerp(a: Tensor, b: Tensor, s: Tensor | float) -> Tensor:
    """Spherical interpolation of *flattened* latents [B, ...] at s in [0, 1] (float or [B]).

    The norm is interpolated linearly between the ends' norms, so the ends are met exactly and
    equal norms are kept. Falls back to lerp where a and b are (anti)parallel.
    """
    u, v = a.flatten(1), b.flatten(1)
    s = torch.as_tensor(s, dtype=u.dtype, device=u.device).reshape(-1, 1)  # [B, 1] or [1, 1]
    norm_u, norm_v = u.norm(dim=1, keepdim=True), v.norm(dim=1, keepdim=True)
    u1, v1 = u / norm_u, v / norm_v
    theta = angle(a, b).reshape(-1, 1)
    sin = theta.sin()
    flat = sin < 1e-6
    safe = torch.where(flat, torch.ones_like(sin), sin)
    direction = (((1 - s) * theta).sin() * u1 + (s * theta).sin() * v1) / safe
    mixed = torch.where(flat, u1.lerp(v1, s.expand_as(u1)), direction)
    return (mixed * norm_u.lerp(norm_v, s.expand_as(norm_u))).reshape(-1, *a.shape[1:])


def angle(a: Tensor, b: Tensor) -> Tensor:
    """The angle between flattened latents, radians in [0, pi], [B]; accurate for small angles too."""
    u = torch.nn.functional.normalize(a.flatten(1), dim=1)
    v = torch.nn.functional.normalize(b.flatten(1), dim=1)
    # arccos loses half the digits near 0; the half-chord form does not
    return 2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))


def rotate(z: Tensor, w: Tensor, tau: Tensor) -> Tensor:
    """cos(tau) z + sin(tau) w for z, w [B, ...] and tau [B] in radians: N(0, I) again."""
    tau = tau.reshape(-1, *([1] * (z.ndim - 1)))
    return tau.cos() * z + tau.sin() * w


def tangent(w: Tensor, z: Tensor) -> Tensor:
    """The part of w orthogonal to z, scaled to z's norm, [B, ...]: `rotate(z, tangent(w, z), tau)`
    stays on z's sphere and turns by exactly tau."""
    u, v = z.flatten(1), w.flatten(1)
    norm = u.norm(dim=1, keepdim=True)
    v = v - (v * u).sum(1, keepdim=True) / norm.square() * u
    return (v * norm / v.norm(dim=1, keepdim=True)).reshape(w.shape)
