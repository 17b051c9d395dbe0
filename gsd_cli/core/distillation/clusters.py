"""Clusters of images in a feature map: their centres, and how softly an image belongs to each."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from gsd_cli.core.distillation.losses import log_memberships

CLUSTERS = 16
SURE = 0.9
"""The mean, over images, of the largest membership."""
COMPONENTS, STARTS = 64, 4
"""Principal components that images are clustered in, and how often k-means starts; the best is taken."""
ROUNDING = 1e-5
"""Differences of vectors that are none, as a share of their length."""
BISECTIONS = 60


def fit_centres(features: Tensor, count: int, seed: int) -> Tensor:
    """The centres that k-means finds among feature vectors [N, F], float32 [K, F], K <= count.

    Clustered in the first principal components, which hold the best clusters' centres (Ding and He, ICML 2004) and
    take a hundredth of the time; the centres are means in the whole space. Fewer than `count` where there are not so
    many different vectors.
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
        short = (short / grain).round() * grain  # equal vectors come out of PCA a little different
        found = KMeans(min(count, len(vectors)), n_init=STARTS, random_state=seed).fit(short)
    labels = torch.from_numpy(found.labels_).long()
    return torch.stack([vectors[labels == k].mean(0) for k in labels.unique()]).to(features.device)


def fit_temperature(features: Tensor, centres: Tensor, sure: float = SURE) -> Tensor:
    """The temperature T at which the largest membership is `sure` in the mean over features [N, F]: float32 [].

    By bisection of log T: the higher T, the softer.
    """
    scale = (features - features.mean(0)).square().sum(1).mean().clamp(min=1e-12)
    low, high = (scale * 1e-6).log(), (scale * 1e3).log()
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        sharp = log_memberships(features, centres, middle.exp()).amax(1).exp().mean() > sure
        low, high = (middle, high) if sharp else (low, middle)
    return low.exp()


def shares(q: Tensor, labels: Tensor | None = None, classes: int | None = None) -> Tensor:
    """Mean memberships of each class's images, [classes, K], sums of 1; [1, K] without classes.

    q: [N, K]; labels: int64 [N]. A class's own images count with one more, that is the mean of all: a class of which
    there are none has the shares of all.
    """
    everyone = q.mean(0, keepdim=True)
    if not classes or labels is None:
        return everyone
    sums = torch.zeros(classes, q.shape[1], device=q.device).index_add_(0, labels, q)
    counts = torch.bincount(labels, minlength=classes)[:, None]
    return (sums + everyone) / (counts + 1)
