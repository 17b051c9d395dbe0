"""Cells of latents, fitted for the isometric form `cells`: a target layout of the latent sphere.

Each cell is to contain the latents of one cluster of images. The cells have short borders and given shares. A
latent's cell is read from its coarse values, the means over 8 x 8 regions. Cells of equal weight have the shortest
borders where each takes the latents nearest to its corner of a regular simplex (Milman and Neeman, The Gaussian
double-bubble and multi-bubble conjectures, 2022); biases give them other shares.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from gsd_cli.compute.device import full_precision
from gsd_cli.compute.random import generator_for
from gsd_cli.core.distillation.clusters import Clusters, find_clusters
from gsd_cli.core.distillation.fit_sources import FitSources, coarse, coarse_factor
from gsd_cli.core.models.condition import Condition

SOFTNESS = 0.3
"""Temperature of the targets; scores have a standard deviation of 1."""
DRAWS, ROUNDS, SETTLED = 2**13, 400, 20
"""Of the fit of the biases: latents per round, rounds, and rounds before the steps get shorter."""
RAREST = 1e-4
"""Smallest share of a cell."""


@dataclass(frozen=True)
class Cells(Clusters):
    """What `cells` is fitted to: clusters of images, and a cell of latents for each.

    anchors: a [K, D], of coarse values; biases: b [classes or 1, K].
    """

    anchors: Tensor
    biases: Tensor

    @classmethod
    @torch.no_grad()
    def fit(cls, sources: FitSources, seed: int, chunk: int) -> Cells:
        """Clusters as `Clusters.fit` finds them; cells near the generator's present ones, with the clusters' shares."""
        with full_precision(sources.device):
            generated = sources.generated_images(seed, chunk)
            images = generated if sources.real is None else sources.real_images(sources.real, seed, chunk)
            clusters = find_clusters(images.features, sources.shape, seed)
            q = clusters.log_memberships(generated.features).exp()
            assert generated.coarse is not None
            anchors = fit_anchors(q, generated.coarse, coarse_factor(sources.shape).to(q))
            wanted = shares(clusters.log_memberships(images.features).exp(), images.labels, sources.classes)
            return cls(clusters.centres, clusters.temperature, anchors, fit_biases(wanted, seed).to(q))

    def of_latents(self, z: Tensor, condition: Condition, theta: Tensor) -> Tensor:
        """What the form compares with images of latents z [P, C, H, W] of a condition: their target
        memberships [P, K], sums of 1."""
        classes = condition.classes
        biases = self.biases if classes is None or len(self.biases) == 1 else self.biases[classes]
        return soft_cells(coarse(z.float()) @ self.anchors.mT, biases)


def shares(q: Tensor, labels: Tensor | None = None, classes: int | None = None) -> Tensor:
    """Mean memberships of the images of each class, [classes, K], sums of 1; [1, K] without classes.

    q: [N, K]; labels: int64 [N]. The mean of all images counts as one more image of each class: a class without images
    has the shares of all.
    """
    everyone = q.mean(0, keepdim=True)
    if not classes or labels is None:
        return everyone
    sums = torch.zeros(classes, q.shape[1], device=q.device).index_add_(0, labels, q)
    counts = torch.bincount(labels, minlength=classes)[:, None]
    return (sums + everyone) / (counts + 1)


def regular_simplex(count: int) -> Tensor:
    """The corners of a regular simplex around the origin, of length 1: [K, K - 1]."""
    centred = torch.eye(count, dtype=torch.float64) - 1 / count
    corners = torch.linalg.eigh(centred).eigenvectors[:, 1:]  # the first has eigenvalue 0 and is constant
    return F.normalize(corners, dim=1).float()


def fit_anchors(q: Tensor, values: Tensor, factor: Tensor) -> Tensor:
    """Anchors a [K, D]: the regular simplex nearest to the mean gradients of q_k in the coarse values z8.

    q: memberships [N, K] of images; values: coarse values [N, D] of their latents; factor: L [D, D]. In u = L^-1 z8 ~
    N(0, I) the mean gradient is E[u q_k] (Stein 1981), which takes forward passes only. The nearest simplex is the
    orthogonal Procrustes solution (Schonemann 1966) for gradients of length 1. Scores a . z8 have a standard deviation
    of 1.
    """
    white = torch.linalg.solve_triangular(factor, values.mT, upper=False).mT
    gradients = F.normalize((q - q.mean(0)).mT @ white, dim=1)
    corners = regular_simplex(q.shape[1]).to(q)
    left, _, right = torch.linalg.svd(corners.mT @ gradients, full_matrices=False)
    return torch.linalg.solve_triangular(factor, corners @ left @ right, upper=False, left=False)


def fit_biases(wanted: Tensor, seed: int) -> Tensor:
    """Biases [R, K] at which the mean target over z ~ N(0, I) is `wanted` [R, K], sums of 1; on the CPU.

    Stochastic approximation (Robbins and Monro 1951) with averaged iterates (Polyak and Juditsky 1992):

        b_k <- b_k + rate (wanted_k - mean t_k) / wanted_k

    This is gradient ascent on the dual of semi-discrete entropic optimal transport (Genevay et al., NeurIPS 2016), with
    each coordinate scaled by its curvature. The scores of a regular simplex have one distribution for all anchors.
    """
    wanted = wanted.float().cpu().clamp(min=RAREST)
    wanted = wanted / wanted.sum(1, keepdim=True)
    corners, random = regular_simplex(wanted.shape[1]), generator_for(seed, "layout", "biases")
    draws = max(256, DRAWS // len(wanted))
    biases, averaged = torch.zeros_like(wanted), torch.zeros_like(wanted)
    for step in range(ROUNDS):
        scores = torch.randn(draws, corners.shape[1], generator=random) @ corners.mT
        found = soft_cells(scores, biases[:, None]).mean(1)
        rate = SOFTNESS * (1 + step / SETTLED) ** -0.7
        biases = biases + rate * ((wanted - found) / wanted).clamp(min=-3)
        if step >= ROUNDS // 2:
            averaged += biases / (ROUNDS - ROUNDS // 2)
    return averaged


def soft_cells(scores: Tensor, biases: Tensor) -> Tensor:
    """Target memberships t = softmax((score + b) / 0.3) from scores a . z8 and biases b, both [..., K]: sums of 1."""
    return ((scores + biases) / SOFTNESS).softmax(-1)
