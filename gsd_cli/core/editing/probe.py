"""An attribute learnt from labelled images: a linear SVM on frozen features, as a differentiable score."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.core.models.feature_maps import FeatureMap

MOST = 4000
"""The largest number of images per side that a probe learns from."""
MARGIN_WEIGHT = 0.01
"""The SVM's C."""


@dataclass(frozen=True)
class Probe:
    """score = features(images) . weight + bias: positive for images with the attribute. auroc: on the
    held-out quarter of the examples."""

    features: FeatureMap
    weight: Tensor
    bias: float
    auroc: float

    def __call__(self, images: Tensor) -> Tensor:
        """images [B, C, H, W] to scores [B]."""
        return self.features(images) @ self.weight.to(images.device) + self.bias


def fit_probe(features: FeatureMap, positive: Tensor, negative: Tensor, name: str) -> Probe:
    """Learn an attribute from images with it and without it.

    positive, negative: feature vectors [N, F] by `features`. Raises GsdError (exit 3) for fewer than 4 of either.
    """
    if min(len(positive), len(negative)) < 4:
        counts = f"{len(positive)} images with it, {len(negative)} without"
        raise GsdError(f"{name}: {counts}: too few to learn from", hint="give at least 4 of each, better 50")
    vectors = torch.cat([positive, negative]).double()
    labels = torch.cat([torch.ones(len(positive)), torch.zeros(len(negative))]).bool()
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[3::4] = True
    seen = vectors[~held_out]  # the held-out quarter takes no part in anything that is fitted
    mean, deviation = seen.mean(0), seen.std(0).clamp(min=1e-6)
    x = ((vectors - mean) / deviation).numpy()
    coefficient, intercept = linear_svm(x[~held_out.numpy()], labels[~held_out].numpy())
    quality = auroc(torch.from_numpy(x[held_out.numpy()] @ coefficient), labels[held_out])
    weight = torch.from_numpy(coefficient) / deviation
    return Probe(features, weight.float(), float(intercept - (weight @ mean)), quality)


def linear_svm(x: np.ndarray, labels: np.ndarray, c: float = MARGIN_WEIGHT) -> tuple[np.ndarray, float]:
    """The normal [F] and intercept of a linear SVM on rows x [N, F] with boolean labels, classes balanced."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = LinearSVC(C=c, class_weight="balanced", random_state=0, max_iter=2000).fit(x, labels)
    return found.coef_[0].astype(np.float64), float(found.intercept_[0])


def auroc(scores: Tensor, labels: Tensor) -> float:
    """The chance that a positive [N] scores above a negative; ties count half. 0.5 when a side is empty."""
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not positives or not negatives:
        return 0.5
    from scipy.stats import rankdata

    ranks = rankdata(scores.double().numpy())
    total = float(ranks[labels.numpy()].sum())
    return (total - positives * (positives + 1) / 2) / (positives * negatives)
