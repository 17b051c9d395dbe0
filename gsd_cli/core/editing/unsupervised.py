"""Directions without labels: principal components of the bottleneck, and those an image is most sensitive to.

The bottleneck's components: Haas et al. (2023), after GANSpace (Härkönen et al. 2020). An image's own
directions: singular vectors of the generator's Jacobian (Haas et al. 2023), here from latent to features.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gsd_cli.catalogue.model_facts import COMPONENT_COUNT
from gsd_cli.compute.device import in_full_precision
from gsd_cli.compute.random import latents
from gsd_cli.core.editing.direction import Direction
from gsd_cli.core.latents.render import record_bottleneck
from gsd_cli.core.models.feature_maps import FeatureMap
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.models.sphere import tangent_part

SAMPLES = 1024
ROUNDS = 8
"""Iterations for the Jacobian's singular vectors."""
DIFFERENCE = 0.05
"""Step of the central differences along a unit vector of z."""


@torch.no_grad()
@in_full_precision
def principal_directions(
    generator: Generator, batch_size: int, samples: int = SAMPLES, on_sample: Callable[[int], None] = lambda done: None
) -> list[Direction]:
    """Principal components of the bottleneck over `samples` images of the generator: pc0, pc1, ...

    Strength 1 is the standard deviation of the generator's samples along the component.
    """
    device = generator.device
    seen: list[Tensor] = []
    with record_bottleneck(generator, seen):
        for seeds in torch.arange(samples).split(batch_size):
            generator(latents(seeds.tolist(), generator.latent_shape, "directions").to(device))
            on_sample(int(seeds[-1]) + 1)
    activations = torch.cat(seen)  # [samples, c, h, w]
    flat = activations.flatten(1) - activations.flatten(1).mean(0)
    _, singular, vectors = torch.linalg.svd(flat, full_matrices=False)
    # a component's sign is arbitrary: make its largest entry positive
    vectors = vectors[:COMPONENT_COUNT]
    vectors = vectors * vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()
    share = singular.square() / singular.square().sum()
    return [
        Direction(
            f"pc{k}",
            "bottleneck",
            vectors[k].reshape(activations.shape[1:]).clone(),
            singular[k].item() / (samples - 1) ** 0.5,
            "principal component",
            {"variance_share": share[k].item()},
        )
        for k in range(len(vectors))
    ]


@in_full_precision
def sensitive_directions(
    generator: Generator, z: Tensor, features: FeatureMap, count: int = 4, rounds: int = ROUNDS
) -> list[Direction]:
    """The directions that change one image most: jac0, jac1, ..., the first right singular vectors of the Jacobian of
    features(G(z)) at z [C, H, W], tangent to its sphere, by subspace iteration on J^T J.

    Strength 1 is one standard deviation of a latent along any direction: length 1.
    """
    device = generator.device
    here = z.to(device).expand(count, *z.shape)
    block = tangent_part(latents(range(count), z.shape, "jacobian").to(device), here).flatten(1)
    for _ in range(rounds):
        block = torch.linalg.qr(block.T).Q.T  # rows are orthonormal
        image = _push_forward(generator, here, block.reshape(here.shape), features)
        block = tangent_part(_pull_back(generator, here, image, features), here).flatten(1)
    # the subspace's own singular vectors
    q = torch.linalg.qr(block.T).Q.T
    image = _push_forward(generator, here, q.reshape(here.shape), features)
    _, gains, turn = torch.linalg.svd(image.T, full_matrices=False)
    vectors = (turn @ q).cpu()
    return [
        Direction(f"jac{k}", "latent", vectors[k].reshape(z.shape), 1.0, "Jacobian", {"gain": gains[k].item()})
        for k in range(count)
    ]


@torch.no_grad()
def _push_forward(generator: Generator, z: Tensor, v: Tensor, features: FeatureMap) -> Tensor:
    """J v by central differences: [K, F]."""
    ahead, behind = features(generator(z + DIFFERENCE * v)), features(generator(z - DIFFERENCE * v))
    return (ahead - behind) / (2 * DIFFERENCE)


def _pull_back(generator: Generator, z: Tensor, w: Tensor, features: FeatureMap) -> Tensor:
    """J^T w by a backward pass: [K, C, H, W]."""
    with torch.enable_grad():
        point = z.detach().clone().requires_grad_(True)
        (pulled,) = torch.autograd.grad((features(generator(point)) * w).sum(), point)
    return pulled
