"""What a teacher in training predicts: the noise of a DDPM, or the velocity of a flow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.flow_schedule import FlowSchedule
from gsd_cli.core.models.schedule import NoiseSchedule

_LINEAR = BetaSchedule.linear()
_FLOW = FlowSchedule()


@dataclass(frozen=True)
class FitObjective:
    """A noisy image is a share of the image and a share of the noise n ~ N(0, I); the network predicts `target`.

    mix(u): for u float64 [B] uniform in (0, 1), the times that the network is given [B], and the shares of image and
    noise, float32 [B]. target(image, noise): of their shape. schedule, prediction: how the trained network is read.
    """

    title: str
    schedule: NoiseSchedule
    prediction: str
    mix: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
    target: Callable[[Tensor, Tensor], Tensor]


def _mix_ddpm(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    t = (u * _LINEAR.steps).long().clamp(max=_LINEAR.steps - 1)
    bar = _LINEAR.alphas_bar[t].float()
    return t, bar.sqrt(), (1 - bar).sqrt()


def _mix_flow(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    t = torch.special.ndtri(u).sigmoid().float()
    return _FLOW.count * t, 1 - t, t


OBJECTIVES = {
    "eps": FitObjective(
        "DDPM (eps-prediction, linear schedule, 1000 steps)", _LINEAR, "epsilon", _mix_ddpm, lambda image, noise: noise
    ),
    "flow": FitObjective(
        "flow (velocity-prediction)", _FLOW, "flow_prediction", _mix_flow, lambda image, noise: noise - image
    ),
}
"""eps: Ho et al. 2020, algorithm 1, with uniform t. flow: Lipman et al. 2023, x_t = (1 - t) y + t n, where the logit of
t is normal (Esser et al. 2024, section 3.1)."""


def stratify(batch: int, generator: torch.Generator) -> Tensor:
    """Numbers in (0, 1), float64 [B], one from each of B equal slices: each uniform, their mean with less variance."""
    u = torch.rand(batch, generator=generator, dtype=torch.float64)
    # ndtri is infinite at 0
    return ((torch.arange(batch) + u) / batch).clamp(min=1e-9)
