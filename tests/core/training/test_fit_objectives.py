from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.diffusers_folder import load_denoiser, save_denoiser
from gsd_cli.core.models.network_kind import NetworkKind
from gsd_cli.core.sampling.samplers import parse_sampler
from gsd_cli.core.training.fit_objectives import OBJECTIVES, FitObjective, stratify
from gsd_cli.core.training.unets import build_unet

GAUSSIAN = torch.tensor([0.3, 0.5])
"""Mean and standard deviation of data that are one normal number."""


@pytest.fixture(params=OBJECTIVES)
def objective(request: pytest.FixtureRequest) -> FitObjective:
    found: FitObjective = OBJECTIVES[request.param]
    return found


def denoiser(objective: FitObjective, output: Tensor) -> Denoiser:
    """A denoiser whose network says `output`, whatever it is given."""

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

    kind = NetworkKind("", (), lambda net: (1, 1, 1), lambda net: None, lambda net, x, t, c: output, *[None] * 3)  # type: ignore[list-item]
    return Denoiser(Constant(), objective.schedule, objective.prediction, kind=kind)


def test_a_network_that_predicts_the_target_finds_the_image(objective: FitObjective) -> None:
    """What is trained and how it is read afterwards belong together, at every level."""
    times, of_image, of_noise = objective.mix(stratify(64, torch.Generator().manual_seed(0)))
    image, noise = torch.randn(2, 64, 1, 1, 1).unbind()
    sigma = of_noise / of_image
    model = denoiser(objective, objective.target(image, noise))
    x = image + sigma.reshape(-1, 1, 1, 1) * noise
    torch.testing.assert_close(model(x, sigma), image, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(objective.schedule.timestep(sigma).float(), times.float(), atol=0.02, rtol=1e-4)
    network_sees = model.precondition.input(x, sigma)
    mixed = of_image.reshape(-1, 1, 1, 1) * image + of_noise.reshape(-1, 1, 1, 1) * noise
    torch.testing.assert_close(network_sees, mixed, atol=1e-4, rtol=1e-4)


def test_the_times_are_spread_as_published() -> None:
    generator = torch.Generator().manual_seed(0)
    u = torch.stack([stratify(8, generator) for _ in range(4000)])
    assert ((u * 8).long() == torch.arange(8)).all()
    t, of_image, of_noise = OBJECTIVES["eps"].mix(u.flatten())
    counts = t.bincount(minlength=1000).double()
    expected = t.numel() / 1000
    assert ((counts - expected) ** 2 / expected).sum() < 999 + 5 * (2 * 999) ** 0.5
    torch.testing.assert_close(of_image**2 + of_noise**2, torch.ones_like(of_image))
    t, of_image, of_noise = OBJECTIVES["flow"].mix(u.flatten())
    logits = (t.double() / 1000).logit()
    assert logits.mean().item() == pytest.approx(0, abs=0.01) and logits.std().item() == pytest.approx(1, abs=0.01)
    torch.testing.assert_close(of_image + of_noise, torch.ones_like(of_image))


def test_it_is_stored_and_read_back_as_what_it_is(objective: FitObjective, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Denoiser(build_unet("tiny", 16, 1).eval(), objective.schedule, objective.prediction)
    save_denoiser(model, tmp_path, half=False)
    read = load_denoiser(tmp_path)
    noise = torch.randn(2, 1, 16, 16)
    sampler = parse_sampler("ddim-4")
    assert torch.equal(sampler(read, noise, [0, 1]), sampler(model, noise, [0, 1]))


def test_the_least_error_is_that_of_the_best_denoiser(objective: FitObjective) -> None:
    """Of normal numbers, a line is the best fit: the target's variance given the noisy image."""
    torch.manual_seed(0)
    mean, deviation = GAUSSIAN
    _, of_image, of_noise = objective.mix(torch.tensor([0.05, 0.2, 0.4], dtype=torch.float64))
    image = mean + deviation * torch.randn(200_000, 1, dtype=torch.float64)
    noise = torch.randn_like(image)
    noisy = of_image * image + of_noise * noise
    target = objective.target(image, noise).expand_as(noisy)
    cov = ((noisy - noisy.mean(0)) * (target - target.mean(0))).mean(0)
    error = target.var(0) - cov**2 / noisy.var(0)
    sigma = of_noise / of_image
    clean_error = deviation**2 * sigma**2 / (deviation**2 + sigma**2)
    amplification = objective.schedule.outputs[objective.prediction].amplification(sigma)
    torch.testing.assert_close((error * amplification**2).float(), clean_error, rtol=0.03, atol=0)
