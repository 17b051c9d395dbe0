"""Samplers by name, as `--compare` takes them: msa, ddim-50, heun-18, dpm++-20, ..."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.catalogue.registry import BASELINES, SAMPLERS, sampler_words
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.sampling.discrete import Step, ancestral, ddim
from gsd_cli.core.sampling.hybrid import adapted_sigmas, first_order_steps, hybrid
from gsd_cli.core.sampling.ode import dpm_solver, euler, heun
from gsd_cli.core.sampling.predictor_corrector import predictor_corrector

ONE_STEP_SIGMA = 2.5
"""Where `one-step-teacher` calls the network: where distillation starts."""
ODE: dict[str, Callable[..., Tensor]] = {"euler": euler, "heun": heun, "dpm++": dpm_solver}


@dataclass(frozen=True)
class Sampler:
    """A sampler and its number of steps; `sigmas` are the fitted levels of a hybrid."""

    name: str
    kind: str
    steps: int | None
    sigmas: tuple[float, ...] = ()

    @property
    def deterministic(self) -> bool:
        """Whether the image is a function of the noise alone."""
        return self.kind not in ("msa", "pc")

    def fitted(self, model: Denoiser, device: torch.device) -> Sampler:
        """Ready for this teacher: a hybrid takes its pilot run, the others are ready as they are."""
        if self.kind != "hybrid":
            return self
        return replace(self, sigmas=tuple(adapted_sigmas(model, self.count(model), device)))

    def count(self, model: Denoiser) -> int:
        """Its number of steps."""
        return self.steps or SAMPLERS.get(self.kind, 1) or model.schedule.steps

    def calls(self, model: Denoiser) -> int:
        """Network calls per image."""
        steps = self.count(model)
        if self.kind in ("heun", "pc"):
            return 2 * steps - 1
        if self.kind == "hybrid":
            return 2 * steps - first_order_steps(steps) - 1
        return steps

    def __call__(
        self,
        model: Denoiser,
        noise: Tensor,
        seeds: Sequence[int],
        on_step: Step | None = None,
        clip: bool | None = None,
    ) -> Tensor:
        """Images from noise [B, C, H, W]; seeds name the fresh noise of each image.

        clip: whether the discrete chains clip the clean estimate; None as the model's own sampler does.
        """
        steps, clip = self.count(model), model.clip_sample if clip is None else clip
        if self.kind == "msa":
            return ancestral(model, noise, seeds, steps, clip, on_step)
        if self.kind == "ddim":
            return ddim(model, noise, steps, clip, on_step)
        if self.kind == "pc":
            return predictor_corrector(model, noise, seeds, steps, on_step)
        if self.kind == "hybrid":
            return hybrid(model, noise, list(self.sigmas or adapted_sigmas(model, steps, noise.device)), on_step)
        if self.kind in ODE:
            return ODE[self.kind](model, noise, steps, on_step)
        with torch.no_grad():
            return model(ONE_STEP_SIGMA * noise, per_image(ONE_STEP_SIGMA, noise))


def parse_sampler(name: str) -> Sampler:
    """Read a sampler's name. Raises GsdError (exit 2) for an unknown one."""
    words = sampler_words(name)
    if words is None:
        raise GsdError(f"unknown sampler {name!r}", hint=", ".join(BASELINES), code=ExitCode.USAGE)
    return Sampler(name, *words)
