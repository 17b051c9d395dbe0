"""Noise recipes: which levels are drawn, for any schedule."""

from __future__ import annotations

import pytest
import torch

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.core.distillation.noise_levels import (
    LOW_SHARE,
    build_recipe,
    ddpm_recipe,
    edm_recipe,
    karras_level,
    pixel_recipe,
    recipe_name,
)
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.edm_schedule import EdmSchedule
from gsd_cli.core.models.flow_schedule import FlowSchedule
from gsd_cli.core.models.score_sde_schedule import VeSchedule
from gsd_cli.options import DistillSettings

SCHEDULES = {
    "linear": BetaSchedule.linear(),
    "cosine": BetaSchedule.from_config({"beta_schedule": "squaredcos_cap_v2"}),
    "scaled": BetaSchedule.from_config({"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
    "short": BetaSchedule.linear(100),
    "flow": FlowSchedule(3.0),
    "geometric": VeSchedule(sigma_max=50.0),
}


def drawn(draw: object, n: int = 20_000) -> torch.Tensor:
    return draw(n, torch.Generator().manual_seed(0))  # type: ignore[operator]


def test_the_edm_recipe_has_the_published_levels() -> None:
    assert karras_level(torch.tensor([0.0, 0.8, 1.0])).tolist() == pytest.approx([0.002, 24.4, 80.0], rel=2e-3)
    recipe = edm_recipe(BetaSchedule.linear())
    random = torch.Generator().manual_seed(0)
    logs = recipe.fake_sigma(20_000, random).log()
    assert logs.mean().item() == pytest.approx(-1.2, abs=0.03)
    assert logs.std().item() == pytest.approx(1.2, abs=0.03)
    levels = recipe.generator_sigma(20_000, random)
    assert levels.max() <= 24.5
    assert levels.min() >= BetaSchedule.linear().sigmas[0] * 0.999
    sigma = torch.tensor([0.5, 2.0])
    torch.testing.assert_close(recipe.weight(sigma), (sigma**2 + 0.25) / (0.5 * sigma) ** 2)


def test_the_discrete_recipe_draws_the_tables_levels() -> None:
    schedule = BetaSchedule.linear()
    recipe = ddpm_recipe(schedule, 20, 30)
    drawn = recipe.generator_sigma(500, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == set(schedule.sigmas[20:31].float().tolist())
    torch.testing.assert_close(recipe.weight(torch.tensor([2.0])), torch.tensor([0.25]))


@pytest.mark.parametrize("name", SCHEDULES)
def test_pixels_want_levels_down_to_the_grain_in_sigma_whatever_the_schedule(name: str) -> None:
    schedule = SCHEDULES[name]
    levels = drawn(build_recipe(DistillSettings(), schedule).generator_sigma)
    first, last = schedule.sigmas[0].item(), schedule.sigmas[-1].item()
    assert levels.min() >= max(0.01, first) * 0.999
    assert levels.max() <= min(24.6, last) * 1.05
    assert levels.dtype == torch.float32
    assert (levels <= 0.3).float().mean() > LOW_SHARE - 0.02


def test_a_third_of_the_levels_is_low_and_log_uniform() -> None:
    schedule = BetaSchedule.linear()
    # all other levels lie above the low ones
    levels = drawn(pixel_recipe(schedule, 200, 793).generator_sigma)
    low = levels[levels <= 0.3]
    assert len(low) / len(levels) == pytest.approx(LOW_SHARE, abs=0.01)
    logs = low.log()
    assert logs.min().exp() == pytest.approx(0.01, rel=0.02)
    middle = (torch.tensor(0.01).log() + torch.tensor(0.3).log()) / 2
    assert logs.mean().item() == pytest.approx(middle.item(), abs=0.03)


def test_both_networks_learn_where_the_other_is_asked() -> None:
    recipe = build_recipe(DistillSettings(), BetaSchedule.linear())
    assert torch.equal(drawn(recipe.fake_sigma), drawn(recipe.generator_sigma))
    torch.testing.assert_close(recipe.weight(torch.tensor([2.0])), torch.tensor([0.25]))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("noise", ["pixels", "ddpm", "edm"])
def test_the_discriminator_looks_at_texture_mostly_and_at_shape_sometimes(name: str, noise: str) -> None:
    schedule = SCHEDULES[name]
    levels = drawn(build_recipe(DistillSettings(noise=noise), schedule).discriminator_sigma)
    assert levels.min() >= schedule.sigmas[0] * 0.999
    assert levels.max() <= 8.001
    assert (levels > 1.2).float().mean() == pytest.approx(1 / 7, abs=0.01)


@pytest.mark.parametrize("noise", ["pixels", "ddpm"])
def test_a_geometric_schedule_is_drawn_at_the_levels_of_ho(noise: str) -> None:
    """Uniform timesteps of its own would be twice as often low."""
    settings = DistillSettings(noise=noise)
    levels = drawn(build_recipe(settings, VeSchedule(sigma_max=380.0)).generator_sigma)
    published = drawn(build_recipe(settings, BetaSchedule.linear()).generator_sigma)
    torch.testing.assert_close(levels, published.clamp(min=0.02))
    exponential = drawn(build_recipe(settings, EdmSchedule(spacing="exponential")).generator_sigma)
    torch.testing.assert_close(exponential, published.clamp(min=0.002))
    if noise == "ddpm":
        lowest = build_recipe(DistillSettings(noise=noise, t_min=0), VeSchedule(sigma_max=380.0))
        assert drawn(lowest.generator_sigma).min().item() == pytest.approx(0.02)  # below it the teacher knows nothing


def test_a_level_beyond_a_geometric_schedule_is_refused() -> None:
    with pytest.raises(GsdError, match=r"ends at sigma 100") as caught:
        build_recipe(DistillSettings(t_max=999), VeSchedule(sigma_max=50.0))
    assert caught.value.code == ExitCode.USAGE


def test_latents_have_no_grain_of_their_own() -> None:
    assert recipe_name(DistillSettings(), pixels=True) == "pixels"
    assert recipe_name(DistillSettings(), pixels=False) == "ddpm"
    assert recipe_name(DistillSettings(noise="edm"), pixels=False) == "edm"
    levels = drawn(build_recipe(DistillSettings(), BetaSchedule.linear(), pixels=False).generator_sigma)
    assert levels.min().item() == pytest.approx(0.079, abs=0.002)


@pytest.mark.parametrize("steps", [100, 1000, 4000])
@pytest.mark.parametrize("noise", ["pixels", "ddpm"])
def test_levels_are_sigmas_whatever_the_number_of_steps(steps: int, noise: str) -> None:
    """With 4,000 cosine steps timestep 793 is sigma 0.33, below the 2.5 at which the generator is called."""
    schedule = BetaSchedule.from_config({"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": steps})
    for settings in (DistillSettings(noise=noise), DistillSettings(noise=noise, t_min=20, t_max=793)):
        levels = drawn(build_recipe(settings, schedule).generator_sigma)
        assert levels.max().item() == pytest.approx(24.3, rel=0.3 if steps == 100 else 0.05)
        assert levels.max() > settings.sigma_init
        if noise == "ddpm":
            assert levels.min().item() == pytest.approx(0.079, rel=0.3 if steps == 100 else 0.05)


@pytest.mark.parametrize(("t_min", "t_max"), [(0, 999), (20, 793), (100, 101), (700, 700)])
def test_given_timesteps_are_themselves_for_the_schedule_they_count(t_min: int, t_max: int) -> None:
    schedule = BetaSchedule.linear()
    levels = drawn(build_recipe(DistillSettings(noise="ddpm", t_min=t_min, t_max=t_max), schedule).generator_sigma)
    assert set(levels.tolist()) <= set(schedule.sigmas[t_min : t_max + 1].float().tolist())
    assert levels.max() > schedule.sigmas[t_max] * 0.9


def test_short_schedules_keep_what_they_have_and_levels_beyond_are_refused() -> None:
    short = BetaSchedule.linear(100)
    levels = drawn(build_recipe(DistillSettings(noise="ddpm"), short).generator_sigma)
    assert levels.min().item() == pytest.approx(0.079, abs=0.01)
    assert levels.max().item() == pytest.approx(short.sigmas[-1].item())
    with pytest.raises(GsdError, match=r"--t-max 500 is sigma 3.*ends at sigma 1") as caught:
        build_recipe(DistillSettings(t_max=500), short)
    assert caught.value.code == ExitCode.USAGE
    largest = int(str(caught.value.hint).split()[2])
    assert build_recipe(DistillSettings(t_max=largest), short)
    with pytest.raises(GsdError, match=r"from sigma 60\.8") as caught:
        build_recipe(DistillSettings(t_min=900), BetaSchedule.linear())
    assert caught.value.code == ExitCode.USAGE
    with pytest.raises(GsdError, match="1000 timesteps of Ho"):
        build_recipe(DistillSettings(t_max=3000), SCHEDULES["cosine"])
