"""The method on problems whose answer is known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from gsd_cli.core.distillation.losses import fake_score_loss, score_identity_loss
from gsd_cli.core.models.condition import UNCONDITIONAL
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.few_steps import spread_levels
from gsd_cli.core.models.generator import Generator

Denoise = Callable[[Tensor, Tensor], Tensor]


def noise_levels(n: int, low: float, high: float) -> Tensor:
    return torch.empty(n).uniform_(math.log(low), math.log(high)).exp()


def add_noise(y: Tensor, sigma: Tensor) -> Tensor:
    return y + sigma.reshape(-1, 1, 1, 1) * torch.randn_like(y)


def gaussian_denoiser(mean: Tensor, covariance: Tensor) -> Denoise:
    """D(x, s) = mu + S (S + s^2 I)^-1 (x - mu) for images [B, 1, 1, 2]."""
    values, vectors = torch.linalg.eigh(covariance)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        seen = (x.reshape(-1, 2) - mean) @ vectors
        kept = seen * values / (values + sigma[:, None] ** 2)
        return (mean + kept @ vectors.T).reshape(x.shape)

    return denoise


def test_the_gaussian_denoiser_is_the_formula() -> None:
    mean, covariance = torch.tensor([1.0, -2.0]), torch.tensor([[1.5, 0.6], [0.6, 0.8]])
    x = torch.tensor([0.3, 0.9])
    wanted = mean + covariance @ torch.linalg.inv(covariance + 0.49 * torch.eye(2)) @ (x - mean)
    found = gaussian_denoiser(mean, covariance)(x.reshape(1, 1, 1, 2), torch.tensor([0.7]))
    torch.testing.assert_close(found.flatten(), wanted)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.2])
def test_a_linear_generator_finds_the_gaussian(alpha: float) -> None:
    mean, covariance = torch.tensor([1.0, -2.0]), torch.tensor([[1.5, 0.6], [0.6, 0.8]])
    teacher = gaussian_denoiser(mean, covariance)
    a = torch.tensor([[0.3, -0.2], [0.1, 0.5]], requires_grad=True)
    b = torch.zeros(2, requires_grad=True)
    adam = torch.optim.Adam([a, b], 0.03, (0.0, 0.999))
    steps, batch = 500, 128
    for step in range(steps):
        adam.param_groups[0]["lr"] = 0.03 * (1 - step / steps)
        y = (torch.randn(batch, 2) @ a.T + b).reshape(-1, 1, 1, 2)
        sigma = noise_levels(batch, 0.1, 10)
        x = add_noise(y, sigma)
        # the generator's images are N(b, A A^T): its score needs no training
        fake = gaussian_denoiser(b.detach().clone(), (a @ a.T).detach())
        adam.zero_grad()
        score_identity_loss(y, teacher(x, sigma), fake(x, sigma), alpha).mean().backward()
        adam.step()
    torch.testing.assert_close(b.detach(), mean, rtol=0, atol=0.03)
    torch.testing.assert_close((a @ a.T).detach(), covariance, rtol=0, atol=0.05)


class Affine(nn.Module):
    """A denoiser of images [B, 1, 1, 2], A_k x + b_k at the k-th level, that starts as the Gaussian one."""

    shape, conditions = (1, 1, 2), UNCONDITIONAL

    def __init__(self, levels: tuple[float, ...], mean: Tensor, covariance: Tensor):
        super().__init__()
        self.levels = torch.tensor(levels)
        a = torch.stack([covariance @ torch.linalg.inv(covariance + s**2 * torch.eye(2)) for s in levels])
        self.a, self.b = nn.Parameter(a), nn.Parameter(mean - a @ mean)

    def forward(self, x: Tensor, sigma: Tensor, condition: object = None) -> Tensor:
        k = (sigma[:, None] - self.levels).abs().argmin(1)
        return ((self.a[k] @ x.reshape(-1, 2, 1))[..., 0] + self.b[k]).reshape(x.shape)


def affine_moments(generator: Generator) -> tuple[Tensor, Tensor]:
    """The mean and the covariance of its images, which are affine in z."""
    with torch.no_grad():
        images = generator(torch.cat([torch.zeros(1, 2), torch.eye(2)]).reshape(3, 1, 1, 2)).reshape(3, 2)
    matrix = (images[1:] - images[0]).T
    return images[0], matrix @ matrix.T


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_generator_of_several_steps_finds_the_gaussian(steps: int) -> None:
    mean, covariance = torch.tensor([1.0, -2.0]), torch.tensor([[1.5, 0.6], [0.6, 0.8]])
    teacher, levels = gaussian_denoiser(mean, covariance), spread_levels(2.5, steps)
    generator = Generator(cast(Denoiser, Affine(levels, mean, covariance)), levels)
    assert (affine_moments(generator)[1] - covariance).abs().max() > 0.5  # the teacher called so is not there yet
    adam = torch.optim.Adam(generator.parameters(), 0.03, (0.0, 0.999))
    updates, batch = 300, 128
    for update in range(updates):
        adam.param_groups[0]["lr"] = 0.03 * (1 - update / updates)
        y = generator(torch.randn(batch, 1, 1, 2))
        sigma = noise_levels(batch, 0.1, 10)
        x = add_noise(y, sigma)
        fake = gaussian_denoiser(*affine_moments(generator))
        adam.zero_grad()
        score_identity_loss(y, teacher(x, sigma), fake(x, sigma)).mean().backward()
        adam.step()
    found_mean, found_covariance = affine_moments(generator)
    torch.testing.assert_close(found_mean, mean, rtol=0, atol=0.03)
    torch.testing.assert_close(found_covariance, covariance, rtol=0, atol=0.05)


MODES = torch.tensor([[2.0, 2.0], [2.0, -2.0], [-2.0, 2.0], [-2.0, -2.0]])
WIDTH = 0.5


def mixture_denoiser(x: Tensor, sigma: Tensor) -> Tensor:
    """E[y | x] for equal Gaussians of width WIDTH at MODES."""
    seen = x.reshape(-1, 1, 2) - MODES
    spread = WIDTH**2 + sigma[:, None] ** 2
    share = (-seen.square().sum(-1) / (2 * spread)).softmax(1)
    centres = MODES + (WIDTH**2 / spread)[..., None] * seen
    return (share[..., None] * centres).sum(1).reshape(x.shape)


def zero_mlp(inputs: int) -> nn.Module:
    net = nn.Sequential(nn.Linear(inputs, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 2))
    nn.init.zeros_(net[-1].weight)
    nn.init.zeros_(net[-1].bias)
    return net


def mode_shares(y: Tensor) -> Tensor:
    """The share of samples within two widths of each mode: [4]."""
    return ((y.reshape(-1, 1, 2) - MODES).norm(dim=-1) < 2 * WIDTH).float().mean(0)


def test_a_distilled_generator_reaches_every_mode() -> None:
    shape_net, score_net = zero_mlp(2), zero_mlp(3)

    def generate(n: int) -> Tensor:
        z = torch.randn(n, 2)
        return (z + shape_net(z)).reshape(-1, 1, 1, 2)

    def fake(x: Tensor, sigma: Tensor) -> Tensor:
        # starts as the teacher, as every fake score does; what it learns is an eps
        column = sigma.reshape(-1, 1, 1, 1)
        inputs = torch.cat([(x / (1 + column**2).sqrt()).reshape(-1, 2), sigma.log()[:, None]], 1)
        return mixture_denoiser(x, sigma) - column * score_net(inputs).reshape(x.shape)

    adam = torch.optim.Adam(shape_net.parameters(), 5e-3, (0.0, 0.999))
    fake_adam = torch.optim.Adam(score_net.parameters(), 2e-2, (0.0, 0.999))
    steps, batch = 600, 128
    with torch.no_grad():
        assert mode_shares(generate(2000)).max() < 0.03
    for step in range(steps):
        adam.param_groups[0]["lr"] = 5e-3 * (1 - step / steps)
        with torch.no_grad():
            y = generate(batch)
        sigma = noise_levels(batch, 0.1, 5)
        fake_adam.zero_grad()
        fake_score_loss(y, fake(add_noise(y, sigma), sigma), sigma**-2).mean().backward()
        fake_adam.step()

        y, sigma = generate(batch), noise_levels(batch, 0.1, 5)
        x = add_noise(y, sigma)
        adam.zero_grad()
        score_identity_loss(y, mixture_denoiser(x, sigma), fake(x, sigma)).mean().backward()
        adam.step()
    with torch.no_grad():
        shares = mode_shares(generate(4000))
    # the mixture itself gives 0.22 each; one Gaussian of its mean and covariance less than 0.05
    assert (shares > 0.08).all()
    assert shares.sum() > 0.4
