"""Every sampler on every kind of teacher: of a Gaussian, whose probability-flow ODE has a closed form."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.flow_schedule import FlowSchedule
from gsd_cli.core.models.schedule import NoiseSchedule
from gsd_cli.core.models.score_sde_schedule import VeSchedule
from gsd_cli.core.sampling.one_step import ONE_STEP_SIGMA
from gsd_cli.core.sampling.samplers import parse_sampler
from tests.support.plain import PLAIN

MEAN, SPREAD = 0.3, 0.4
KINDS: dict[str, tuple[NoiseSchedule, str]] = {
    "ddpm": (BetaSchedule.linear(), "epsilon"),
    "flow": (FlowSchedule(3.0), "flow_prediction"),
    "score-sde": (VeSchedule(sigma_max=50.0), "score"),
}


def denoiser(kind: str) -> Denoiser:
    """The best denoiser of images ~ N(MEAN, SPREAD^2): its network undoes the kind's step to the clean estimate."""
    schedule, prediction = KINDS[kind]
    precondition = schedule.outputs[prediction]

    class Best(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, given: Tensor, time: Tensor) -> Tensor:
            sigma = LEVEL[kind](time).reshape(-1, 1, 1, 1)
            x = (given - precondition.shift) * precondition.divisor(sigma)
            clean = MEAN + SPREAD**2 / (SPREAD**2 + sigma**2) * (x - MEAN)
            zero, one = (precondition.clean(torch.full_like(x, value), x, sigma) for value in (0.0, 1.0))
            return (clean - zero) / (one - zero)

    return Denoiser(Best(), schedule, prediction, kind=PLAIN)


LEVEL: dict[str, Callable[[Tensor], Tensor]] = {
    "ddpm": lambda t: KINDS["ddpm"][0].sigma(t),
    "flow": lambda t: t / (1000 - t),
    "score-sde": lambda s: 2 * s,
}
"""sigma by the time that a network of the kind is given."""


def exact(model: Denoiser, noise: Tensor, start: float) -> Tensor:
    """The end at sigma 0 of the probability-flow ODE from x = sqrt(1 + start^2) noise at `start`."""
    x = noise * math.sqrt(1 + start**2)
    return MEAN + (x - MEAN) * SPREAD / math.sqrt(SPREAD**2 + start**2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("heun-200", 2e-3), ("dpm++-200", 4e-3), ("hybrid-200", 1e-2), ("euler-900", 1e-2), ("ddim-900", 1e-2)],
)
@torch.no_grad()
def test_ode_samplers_reach_the_end_of_the_ode(kind: str, name: str, tolerance: float) -> None:
    model = denoiser(kind)
    noise = torch.randn(64, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    start = model.schedule.sigmas[-1].item() if name.startswith("ddim") else model.schedule.ode_range[1]
    found = parse_sampler(name)(model, noise, range(64), clip=False)
    torch.testing.assert_close(found, exact(model, noise, start), rtol=0, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["msa-900", "pc-900"])
@torch.no_grad()
def test_samplers_with_noise_reach_the_distribution(kind: str, name: str) -> None:
    model = denoiser(kind)
    noise = torch.randn(24, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    found = parse_sampler(name)(model, noise, range(24), clip=False)
    assert found.mean().item() == pytest.approx(MEAN, abs=0.03)
    assert found.std().item() == pytest.approx(SPREAD, rel=0.04)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_one_step_is_the_clean_estimate(kind: str) -> None:
    noise = torch.randn(8, 1, 2, 2)
    weight = SPREAD**2 / (SPREAD**2 + ONE_STEP_SIGMA**2)
    found = parse_sampler("one-step-teacher")(denoiser(kind), noise, range(8))
    torch.testing.assert_close(found, MEAN + weight * (ONE_STEP_SIGMA * noise - MEAN), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["msa-7", "ddim-7", "heun-7", "dpm++-7", "pc-7", "hybrid-7", "euler-7"])
@torch.no_grad()
def test_calls_are_counted(kind: str, name: str) -> None:
    model, sampler = denoiser(kind), parse_sampler(name)
    fitted = sampler.fit(model, torch.device("cpu"))
    seen: list[int] = []
    model.net.register_forward_hook(lambda *_: seen.append(1))
    steps: list[tuple[int, int]] = []
    fitted(model, torch.randn(2, 1, 2, 2), [0, 1], lambda *done: steps.append(done))
    assert len(seen) == sampler.calls(model)
    assert steps == [(i + 1, 7) for i in range(7)]
