"""How far an image is from what a generator makes: whether it is of the model's kind at all.

A high PSNR does not say so: gradients and checkerboards may be reproduced well. Here the image is compared with the
generator's own samples, by the features of its encoder: the distance to the nearest of them, in units of the distance
that few of the samples have to their own nearest one. docs/results/editing.md: what that finds, and how often it errs.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gsd_cli.base.atomic import atomic_file, sweep
from gsd_cli.base.storage import tolerate_storage_errors
from gsd_cli.compute.device import in_full_precision
from gsd_cli.compute.random import latents
from gsd_cli.core.models.feature_maps import FeatureMap
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.sampling.images import conditions_for

SAMPLES, STREAM = 128, "domain"
QUANTILE, MARGIN = 0.98, 1.1
"""The unit of a distance: MARGIN times this quantile of the samples' own distances to their nearest."""


@torch.no_grad()
@in_full_precision
def domain_distances(images: Tensor, own: Tensor, features: FeatureMap, batch_size: int = 64) -> list[float]:
    """The distance of each image [B, C, H, W] in [-1, 1] to the nearest of the generator's samples; above 1 is far.

    own: the samples' features [N, F], of `sample_features`.
    """
    between = torch.cdist(own, own)
    between.fill_diagonal_(torch.inf)
    unit = MARGIN * between.min(1).values.quantile(QUANTILE).item()
    found = [torch.cdist(features(part).float().to(own.device), own).min(1).values for part in images.split(batch_size)]
    return (torch.cat(found) / max(unit, 1e-12)).tolist()


def read_sample_features(generator: Generator, features: FeatureMap, mark: str, cache: Path, batch_size: int) -> Tensor:
    """`sample_features` from the cache, or computed and stored there. mark: the fingerprint of the weights."""
    path = cache / "domain" / f"{mark}.safetensors"
    try:
        stored = load_file(path)["features"].float()
        if len(stored) == SAMPLES and torch.isfinite(stored).all():
            return stored
    except (OSError, SafetensorError, KeyError):  # missing or damaged: it is made again
        pass
    found = sample_features(generator, features, batch_size)
    with tolerate_storage_errors():
        sweep(path.parent)
        with atomic_file(path) as temporary:
            save_file({"features": found.half()}, temporary)
    return found.half().float()


@torch.no_grad()
@in_full_precision
def sample_features(generator: Generator, features: FeatureMap, batch_size: int) -> Tensor:
    """Features [SAMPLES, F] of the generator's own images, of all its conditions; on the CPU."""
    parts = []
    for seeds in torch.arange(SAMPLES).split(batch_size):
        z = latents(seeds.tolist(), generator.latent_shape, STREAM).to(generator.device)
        images = generator(z, conditions_for(generator, seeds.tolist())).clamp(-1, 1)
        parts.append(features(images).float().cpu())
    return torch.cat(parts)
