"""How should a generator of several steps be trained? Gaussian data, affine networks, perfect fake scores.

    python -m benchmarks.distillation.few_steps [--steps 2 4] [--updates 600 2000] [--seed 0]

Takes some minutes on one core and prints a table. The ways:

all        the gradient goes through all calls, and the fake score sees the last images: `gsd distill --student-steps`
one        each row of a batch is trained at one step, on inputs that the earlier ones made without a gradient, against
           one fake score of the images of all steps (DMD2: Yin et al., 2024)
one, each  the same, with a fake score for each step

The figures are the largest error of a mean and of a covariance, of all steps' images; for `all`, of the last ones.
"""

from __future__ import annotations

import argparse
from typing import cast

import torch
from torch import Tensor, nn

from gsd_cli.core.distillation.losses import score_identity_loss
from gsd_cli.core.models.condition import UNCONDITIONAL
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.few_steps import later_noise, spread_levels

WAYS = ("all", "one", "one, each")
MEAN, COVARIANCE = torch.tensor([1.0, -2.0]), torch.tensor([[1.5, 0.6], [0.6, 0.8]])
BATCH, RATE = 128, 0.03

Moments = tuple[Tensor, Tensor]
"""A mean [2] and a covariance [2, 2]."""


def denoise(moments: Moments, x: Tensor, sigma: Tensor) -> Tensor:
    """E[y | x] of Gaussian images y: x [B, 1, 1, 2], sigma [B]."""
    mean, covariance = moments
    values, vectors = torch.linalg.eigh(covariance)
    seen = (x.reshape(-1, 2) - mean) @ vectors
    return (mean + seen * values / (values + sigma[:, None] ** 2) @ vectors.T).reshape(x.shape)


def denoise_mixture(parts: list[Moments], x: Tensor, sigma: Tensor) -> Tensor:
    """E[y | x] of images of Gaussians in equal shares."""
    noisy = [cov + sigma[:, None, None] ** 2 * torch.eye(2) for _, cov in parts]
    laws = [torch.distributions.MultivariateNormal(part[0], n) for part, n in zip(parts, noisy, strict=True)]
    shares = torch.stack([law.log_prob(x.reshape(-1, 2)) for law in laws]).softmax(0)
    estimates = torch.stack([denoise(part, x, sigma) for part in parts])
    return (shares[:, :, None, None, None] * estimates).sum(0)


class Affine(nn.Module):
    """A denoiser A_k x + b_k at the k-th level, at first the best one."""

    shape, conditions = (1, 1, 2), UNCONDITIONAL

    def __init__(self, levels: tuple[float, ...]):
        super().__init__()
        self.levels = torch.tensor(levels)
        a = torch.stack([COVARIANCE @ torch.linalg.inv(COVARIANCE + s**2 * torch.eye(2)) for s in levels])
        self.a, self.b = nn.Parameter(a), nn.Parameter(MEAN - a @ MEAN)

    def forward(self, x: Tensor, sigma: Tensor, condition: object = None) -> Tensor:
        """Clean estimates of x [B, 1, 1, 2] at levels sigma [B]."""
        k = (sigma[:, None] - self.levels).abs().argmin(1)
        return ((self.a[k] @ x.reshape(-1, 2, 1))[..., 0] + self.b[k]).reshape(x.shape)


def make(net: Denoiser, levels: tuple[float, ...], z: Tensor, *, simulate: bool) -> list[Tensor]:
    """The images after each call; simulate: without a gradient from a call to those before it."""
    images: list[Tensor] = []
    for k, sigma in enumerate(levels):
        before = images[-1].detach() if simulate and images else images[-1] if images else None
        x = sigma * z if before is None else before + sigma * later_noise(z, k)
        images.append(net(x, per_image(sigma, z), None))
    return images


@torch.no_grad()
def moments(net: Denoiser, levels: tuple[float, ...]) -> list[Moments]:
    """Mean and covariance of the images after each call, which are affine in z."""
    corners = torch.cat([torch.zeros(1, 2), torch.eye(2)]).reshape(3, 1, 1, 2)
    made = [images.reshape(3, 2) for images in make(net, levels, corners, simulate=False)]
    return [(m[0], (m[1:] - m[0]).T @ (m[1:] - m[0])) for m in made]


def train(way: str, steps: int, updates: int, seed: int) -> tuple[float, float]:
    """Train a generator in one of WAYS; returns the largest error of a mean and of a covariance."""
    torch.manual_seed(seed)
    levels = spread_levels(2.5, steps)
    net = cast(Denoiser, Affine(levels))
    adam = torch.optim.Adam(net.parameters(), RATE, (0.0, 0.999))
    row = torch.arange(BATCH)
    step = row % steps if way != "all" else torch.full_like(row, steps - 1)
    for update in range(updates):
        adam.param_groups[0]["lr"] = RATE * (1 - update / updates)
        z = torch.randn(BATCH, 1, 1, 2)
        y = torch.stack(make(net, levels, z, simulate=way != "all"))[step, row]
        sigma = 0.1 * 100 ** torch.rand(BATCH)
        x = y + sigma.reshape(-1, 1, 1, 1) * torch.randn_like(y)
        now = moments(net, levels)
        own = torch.stack([denoise(part, x, sigma) for part in now])[step, row]
        fake = denoise_mixture(now, x, sigma) if way == "one" else own
        adam.zero_grad()
        score_identity_loss(y, denoise((MEAN, COVARIANCE), x, sigma), fake).mean().backward()
        adam.step()
    found = moments(net, levels)[-1 if way == "all" else 0 :]
    errors = [((mean - MEAN).abs().max().item(), (cov - COVARIANCE).abs().max().item()) for mean, cov in found]
    return max(mean for mean, _ in errors), max(covariance for _, covariance in errors)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--updates", type=int, nargs="+", default=[600, 2000])
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print("| way | steps | updates | mean | covariance |\n| --- | ---: | ---: | ---: | ---: |")
    for steps in given.steps:
        for updates in given.updates:
            for way in WAYS:
                mean, covariance = train(way, steps, updates, given.seed)
                print(f"| {way} | {steps} | {updates:,} | {mean:.3f} | {covariance:.3f} |", flush=True)


if __name__ == "__main__":
    main()
