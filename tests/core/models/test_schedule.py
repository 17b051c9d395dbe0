from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from gsd_cli.base.errors import GsdError
from gsd_cli.compute.random import generator_for, latents
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.sphere import angle, rotate, slerp, tangent
from tests.support.devices import PRETEND, pretend

LINEAR = BetaSchedule.linear()


@pytest.mark.parametrize(
    ("t", "sigma", "digits"), [(0, 0.0100, 5e-5), (440, 2.502, 5e-4), (793, 24.3, 0.05), (999, 157.4, 0.05)]
)
def test_sigma_table(t: int, sigma: float, digits: float) -> None:
    assert LINEAR.steps == 1000
    assert LINEAR.sigmas[t].item() == pytest.approx(sigma, abs=digits)
    assert LINEAR.sigma(torch.tensor([t])).item() == pytest.approx(LINEAR.sigmas[t].item(), rel=1e-6)


@given(st.floats(0, 999, width=32))
@settings(deadline=None)
def test_timestep_inverts_sigma(t: float) -> None:
    back = LINEAR.timestep(LINEAR.sigma(torch.tensor([t])))
    assert back.dtype == torch.float32
    assert back.item() == pytest.approx(t, abs=1e-3)


@given(st.floats(1e-6, 1e4))
@settings(deadline=None)
def test_sigma_inverts_timestep_within_the_table(sigma: float) -> None:
    back = LINEAR.sigma(LINEAR.timestep(torch.tensor([sigma], dtype=torch.float64))).item()
    low, high = LINEAR.sigmas[0].item(), LINEAR.sigmas[-1].item()
    assert back == pytest.approx(min(max(sigma, low), high), rel=1e-5)


@pytest.mark.parametrize("low", [0, 7, 440, 998])
def test_between_entries_sigma_is_geometric(low: int) -> None:
    a, b = LINEAR.sigmas[low].item(), LINEAR.sigmas[low + 1].item()
    assert LINEAR.sigma(torch.tensor([low + 0.25])).item() == pytest.approx(a**0.75 * b**0.25, rel=1e-5)


def test_out_of_range_is_clamped() -> None:
    assert LINEAR.timestep(torch.tensor([0.0, 1e-9, 1e9])).tolist() == [0.0, 0.0, 999.0]
    ends = LINEAR.sigma(torch.tensor([-5.0, 5000.0]))
    torch.testing.assert_close(ends, LINEAR.sigmas[[0, -1]].float())


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"num_train_timesteps": 300, "beta_start": 1e-3, "beta_end": 0.05},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"beta_schedule": "sigmoid"},
        {"beta_schedule": "linear", "trained_betas": np.geomspace(1e-4, 0.3, 50).tolist(), "num_train_timesteps": 50},
    ],
    ids=["default", "linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "trained_betas"],
)
def test_schedules_are_those_of_diffusers(config: dict) -> None:
    ours = BetaSchedule.from_config(config).alphas_bar
    theirs = DDPMScheduler(**config).alphas_cumprod
    assert ours.dtype == torch.float64
    assert (ours.diff() < 0).all()
    torch.testing.assert_close(ours.float(), theirs, rtol=2e-4, atol=1e-9)


@pytest.mark.parametrize("config", [{"beta_schedule": "laplace"}, {"rescale_betas_zero_snr": True}])
def test_unknown_schedules_are_refused(config: dict) -> None:
    with pytest.raises(GsdError) as caught:
        BetaSchedule.from_config(config)
    assert caught.value.code == 3
    assert caught.value.hint


def test_a_latent_depends_on_its_seed_alone() -> None:
    shape = (2, 4, 4)
    together = latents([5, 3, 8], shape)
    assert together.shape == (3, *shape)
    torch.manual_seed(99)  # the global generator plays no part
    for position, seed in enumerate([5, 3, 8]):
        assert torch.equal(together[position], latents([seed], shape)[0])
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(latents([5], shape, "other")[0], together[0])


def test_latents_are_standard_normal() -> None:
    z = latents(range(200), (1, 32, 32)).double()
    n = z.numel()
    assert abs(z.mean()) < 5 / n**0.5
    assert abs(z.var() - 1) < 5 * (2 / n) ** 0.5
    # neighbouring seeds are independent
    assert abs((z[1:] * z[:-1]).mean()) < 5 / n**0.5


def test_generator_for_is_a_function_of_seed_and_stream() -> None:
    def draw(*key: int | str) -> list[float]:
        return torch.rand(4, generator=generator_for(*key)).tolist()

    assert draw(1, "fake", 2, 3) == draw(1, "fake", 2, 3)
    keys = [(1,), (2,), (1, "fake"), (1, "generator"), (1, "fake", 2), (1, 2, "fake"), (1, "fake", 3), (2**62, "fake")]
    assert len({tuple(draw(*key)) for key in keys}) == len(keys)


def _pair(batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(batch, 2, 3, 3), 2 * torch.randn(batch, 2, 3, 3)


def test_slerp_meets_its_ends() -> None:
    a, b = _pair()
    torch.testing.assert_close(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    torch.testing.assert_close(slerp(a, b, torch.tensor([0.0, 1.0, 0.0])), torch.stack([a[0], b[1], a[2]]))


@pytest.mark.parametrize("s", [0.1, 0.5, 0.8])
def test_slerp_turns_evenly_and_keeps_the_norm_of_flattened_latents(s: float) -> None:
    a, b = _pair()
    b = b * (a.flatten(1).norm(dim=1) / b.flatten(1).norm(dim=1)).reshape(-1, 1, 1, 1)
    mid = slerp(a, b, s)
    torch.testing.assert_close(mid.flatten(1).norm(dim=1), a.flatten(1).norm(dim=1))
    torch.testing.assert_close(angle(a, mid), s * angle(a, b))
    torch.testing.assert_close(angle(mid, b), (1 - s) * angle(a, b))


def test_slerp_of_parallel_latents_is_lerp() -> None:
    a, _ = _pair()
    torch.testing.assert_close(slerp(a, 3 * a, 0.5), 2 * a)
    assert slerp(a, -a, 0.3).isfinite().all()


@pytest.mark.parametrize("theta", [1e-4, 1e-3, 0.05, 1.0, 3.0, math.pi - 1e-3])
def test_angle_is_accurate_in_float32(theta: float) -> None:
    a = torch.randn(4, 3072, dtype=torch.float64)
    w = torch.randn_like(a)
    w -= (w * a).sum(1, keepdim=True) / a.square().sum(1, keepdim=True) * a
    w *= (a.norm(dim=1) / w.norm(dim=1))[:, None]
    b = 2 * (math.cos(theta) * a + math.sin(theta) * w)
    found = angle(a.float().reshape(4, 3, 32, 32), b.float().reshape(4, 3, 32, 32))
    torch.testing.assert_close(found, torch.full((4,), theta), rtol=1e-3, atol=0)


def test_rotate_gives_normal_latents_with_the_wanted_correlation() -> None:
    tau = torch.tensor([0.05, 0.5, 1.2])
    z, w = torch.randn(2, 3, 4, 250, 250)
    turned = rotate(z, w, tau)
    n = z[0].numel()
    for k in range(3):
        assert abs(turned[k].mean()) < 5 / n**0.5
        assert abs(turned[k].var() - 1) < 5 * (2 / n) ** 0.5
        assert (turned[k] * z[k]).mean().item() == pytest.approx(math.cos(tau[k]), abs=5 * 2**0.5 / n**0.5)


def test_rotate_towards_an_orthogonal_latent_is_the_exact_angle() -> None:
    z, w = torch.zeros(2, 1, 1, 2), torch.zeros(2, 1, 1, 2)
    z[..., 0], w[..., 1] = 3.0, 3.0
    tau = torch.tensor([0.05, 0.5])
    torch.testing.assert_close(angle(z, rotate(z, w, tau)), tau)


def test_tangent_is_orthogonal_of_the_same_norm_and_turns_exactly() -> None:
    z, w = torch.randn(2, 5, 2, 4, 4, dtype=torch.float64)
    v = tangent(w, z)
    assert (v * z).flatten(1).sum(1).abs().max() < 1e-12
    torch.testing.assert_close(v.flatten(1).norm(dim=1), z.flatten(1).norm(dim=1))
    tau = torch.linspace(0.01, 1.5, 5, dtype=torch.float64)
    turned = rotate(z, v, tau)
    torch.testing.assert_close(angle(z, turned), tau)
    torch.testing.assert_close(turned.flatten(1).norm(dim=1), z.flatten(1).norm(dim=1))
    # v lies in the plane of z and w
    torch.testing.assert_close(angle(v, w), (angle(w, z) - math.pi / 2).abs())


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_float32_is_enough_for_timesteps_and_noise_levels(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apple's GPUs have no float64: t is off by its own rounding at most (6.1e-5 at 631), sigma by 5e-7 of itself."""
    exact = BetaSchedule.from_config({"beta_schedule": kind})
    coarse = BetaSchedule.from_config({"beta_schedule": kind})
    t = torch.linspace(0, exact.steps - 1, 20_001)
    sigma = exact.sigma(t)
    monkeypatch.setattr("gsd_cli.compute.device.has_float64", lambda device: False)
    assert coarse.log_sigmas.on(t.device).dtype == torch.float32
    assert exact.log_sigmas.on(t.device).dtype == torch.float64
    assert (coarse.timestep(sigma) - exact.timestep(sigma)).abs().max() < 1e-4
    assert (coarse.sigma(t) / sigma - 1).abs().max() < 1e-6


def test_a_table_is_made_once_for_each_device() -> None:
    schedule = BetaSchedule.linear()
    with pretend() as seen:
        first, second = (schedule.log_sigmas.on(PRETEND) for _ in range(2))
        assert first is second and first.device == PRETEND
        schedule.timestep(torch.ones(3, device=PRETEND))
        assert not seen.waits
    assert schedule.log_sigmas.on(torch.device("cpu")).dtype == torch.float64
