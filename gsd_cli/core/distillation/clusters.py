"""Clusters of images in a feature map, fitted for the isometric form `borders`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor

from gsd_cli.compute.device import full_precision
from gsd_cli.compute.random import generator_for
from gsd_cli.core.distillation.fit_sources import FitSources, coarse_factor
from gsd_cli.core.models.condition import Condition

CLUSTERS = 16
CONFIDENCE = 0.9
"""The largest membership of an image, in the mean over images."""
COMPONENTS, STARTS = 64, 4
"""Principal components that images are clustered in, and restarts of k-means; the best one is taken."""
ROUNDING = 1e-5
"""Vectors that differ by less than this share of their length count as equal."""
BISECTIONS = 60
PREFIX = "layout/"
"""Of the names in a checkpoint."""


@dataclass(frozen=True)
class Clusters:
    """What `borders` is fitted to: K clusters of images.

    centres: c [K, F]; temperature: T [].
    """

    centres: Tensor
    temperature: Tensor

    @classmethod
    @torch.no_grad()
    def fit(cls, sources: FitSources, seed: int, chunk: int) -> Clusters:
        """Clusters of real images if there are any, else of generated ones; a function of the seed, the generator
        and the data. chunk: images at a time."""
        with full_precision(sources.device):
            return find_clusters(sources.images(seed, chunk).features, sources.shape, seed)

    def log_memberships(self, features: Tensor) -> Tensor:
        """What the form sees of images: their log-memberships [..., K], from features [..., F]."""
        return log_memberships(features, self.centres, self.temperature)

    def of_latents(self, z: Tensor, condition: Condition, theta: Tensor) -> Tensor:
        """What the form compares with images of latents z [P, C, H, W] of a condition: the angle theta
        [P] of each pair."""
        return theta

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same with each tensor changed."""
        return type(self)(**{field.name: change(getattr(self, field.name)) for field in fields(self)})

    def tensors(self) -> dict[str, Tensor]:
        """The tensors under their names in a checkpoint."""
        return {PREFIX + field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], device: torch.device) -> Self | None:
        """Restore what `tensors` gave; None if the checkpoint has none, or those of a form that is fitted to less."""
        names = [field.name for field in fields(cls)]
        if any(PREFIX + name not in tensors for name in names):
            return None
        return cls(**{name: tensors[PREFIX + name].to(device) for name in names})


def find_clusters(features: Tensor, shape: tuple[int, int, int], seed: int) -> Clusters:
    """CLUSTERS clusters of feature vectors [N, F] of images whose latents have `shape`."""
    # `cells` gives each cluster a corner of a regular simplex: K corners need K - 1 dimensions
    count = min(CLUSTERS, len(coarse_factor(shape)) + 1)
    centres = fit_centres(features, count, generator_for(seed, "layout").initial_seed() % 2**32)
    return Clusters(centres, fit_temperature(features, centres))


def log_memberships(features: Tensor, centres: Tensor, temperature: Tensor) -> Tensor:
    """log q: how far each image belongs to each of K centres, [..., K], from features [..., F].

        q_k = softmax over k of -|phi - c_k|^2 / 2T

    centres c: [K, F]; temperature T > 0. The posterior of a mixture of K equal Gaussians of variance T (McLachlan and
    Peel, Finite Mixture Models, 2000).
    """
    # |phi|^2 is the same for all k and cancels
    scores = features @ centres.mT - centres.square().sum(1) / 2
    return (scores / temperature).log_softmax(-1)


def fit_centres(features: Tensor, count: int, seed: int) -> Tensor:
    """The centres that k-means finds among feature vectors [N, F]: float32 [K, F], K <= count.

    k-means runs in the first principal components, which contain the best clusters' centres (Ding and He, ICML 2004)
    and take a hundredth of the time; the centres are means in the whole space. There are fewer than `count` if there
    are fewer different vectors.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning

    vectors = features.float().cpu()
    size = min(COMPONENTS, *vectors.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", RuntimeWarning)  # equal vectors have no variance to divide by
        short = PCA(size, svd_solver="randomized", random_state=seed).fit_transform(vectors.numpy())
        grain = ROUNDING * vectors.norm(dim=1).mean().clamp(min=1e-12).item()
        short = (short / grain).round() * grain  # PCA returns equal vectors with small differences
        found = KMeans(min(count, len(vectors)), n_init=STARTS, random_state=seed).fit(short)
    labels = torch.from_numpy(found.labels_).long()
    return torch.stack([vectors[labels == k].mean(0) for k in labels.unique()]).to(features.device)


def fit_temperature(features: Tensor, centres: Tensor, confidence: float = CONFIDENCE) -> Tensor:
    """The temperature T at which the largest membership is `confidence` in the mean over features [N, F]: float32 [].

    By bisection of log T: memberships get softer as T rises.
    """
    scale = (features - features.mean(0)).square().sum(1).mean().clamp(min=1e-12)
    low, high = (scale * 1e-6).log(), (scale * 1e3).log()
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        sharp = log_memberships(features, centres, middle.exp()).amax(1).exp().mean() > confidence
        low, high = (middle, high) if sharp else (low, middle)
    return low.exp()
