"""The method as a plain loop: what gsd's step is compared with on a GPU.

Two ways. `fair`: everything that any good loop does on a GPU (one fused Adam kernel, channels last, TF32, autocast,
random numbers on the device, nothing read in a step). `peers`: as the published code of the field does it (float32,
torch's default Adam, a loss read by `.item()` after each update). The method is the same: a fake score's update, then
the generator's with the isometric term on pairs of its own, its gradient free.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor

from gsd_cli.compute.device import autocast
from gsd_cli.core.distillation.isometric_forms import distance, speed_loss
from gsd_cli.core.distillation.latent_pairs import pair_count
from gsd_cli.core.distillation.losses import fake_score_loss, score_identity_loss
from gsd_cli.core.distillation.noise_levels import DDPM_T
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.feature_maps import teacher_features
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.models.sphere import angle, rotate
from gsd_cli.options import DistillSettings

IRL_WEIGHT, MEMORY = 10.0, 0.999
Step = Callable[[], None]


def plain_step(teacher: Denoiser, settings: DistillSettings, device: torch.device, *, fair: bool) -> Step:
    """One round of the plain loop, the fair way or the peers'."""
    f = copy.deepcopy(teacher).to(device).eval().requires_grad_(False)
    g = copy.deepcopy(teacher).to(device).train().requires_grad_(True)
    G = Generator.from_teacher(copy.deepcopy(teacher), settings.sigma_init).to(device).requires_grad_(True)
    if fair and device.type == "cuda":
        for model in (f, g, G):
            model.to(memory_format=torch.channels_last)
    average = copy.deepcopy(G).requires_grad_(False)
    cuda, precision = device.type == "cuda", settings.precision if fair else "fp32"
    kind = {"fused": True} if fair and cuda else {}
    adam_G, adam_g = (
        torch.optim.Adam(m.parameters(), settings.lr, (settings.beta1, settings.beta2), **kind) for m in (G, g)
    )
    batch, pairs = settings.batch_size, pair_count(settings.batch_size, settings.pair_every)
    sigmas = teacher.schedule.sigmas.float().to(device)

    def normal(n: int) -> Tensor:
        return torch.randn(n, *teacher.shape, device=device)

    def noised(y: Tensor) -> tuple[Tensor, Tensor]:
        sigma = sigmas[torch.randint(DDPM_T[0], DDPM_T[1] + 1, (batch,), device=device)]
        return sigma, y + sigma.reshape(-1, 1, 1, 1) * normal(batch)

    def update(loss: Tensor, adam: torch.optim.Adam) -> None:
        adam.zero_grad()
        loss.backward()
        adam.step()
        if not fair:
            loss.item()

    def isometric() -> Tensor:
        z = normal(pairs)
        low, high = math.log(settings.tau_min), math.log(settings.tau_max)
        near = rotate(z, normal(pairs), (low + (high - low) * torch.rand(pairs, device=device)).exp())
        rho = distance(teacher_features(f, G(z).float()), teacher_features(f, G(near).float()))
        return speed_loss(rho, angle(z, near)).mean()

    def step() -> None:
        with autocast(device, precision):
            with torch.no_grad():
                y = G(normal(batch)).float()
            sigma, x = noised(y)
            loss = fake_score_loss(y, g(x, sigma).float(), sigma**-2).mean()
        update(loss, adam_g)
        g.requires_grad_(False)
        with autocast(device, precision):
            y = G(normal(batch)).float()
            sigma, x = noised(y)
            sidl = score_identity_loss(y, f(x, sigma).float(), g(x, sigma).float(), settings.alpha).mean()
            loss = sidl + IRL_WEIGHT * isometric()
        update(loss, adam_G)
        g.requires_grad_(True)
        with torch.no_grad():
            mine: list[Tensor] = list(average.parameters())
            theirs: list[Tensor] = list(G.parameters())
            if fair:
                torch._foreach_lerp_(mine, theirs, 1 - MEMORY)
            else:
                for a, b in zip(mine, theirs, strict=True):
                    a.mul_(MEMORY).add_(b, alpha=1 - MEMORY)

    return step
