"""Cells of latents: a partition of the latent sphere with short borders and given shares.

A latent's cell is read from its coarse values, the means over 8 x 8 places. Cells of equal weight have the
shortest borders where each takes the latents nearest to its corner of a regular simplex (Milman and Neeman,
The Gaussian double-bubble and multi-bubble conjectures, 2022); biases give them other shares.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from gsd_cli.compute.random import generator_for

SIDE = 8
SOFTNESS = 0.3
"""Temperature of the targets; scores have a standard deviation of 1."""
DRAWS, ROUNDS, SETTLED = 2**13, 400, 20
"""Latents of a round of the biases' fit, rounds, and rounds before steps get shorter."""
RAREST = 1e-4


def coarse(z: Tensor) -> Tensor:
    """Means of z [B, C, H, W] over 8 x 8 places, flattened: [B, D], D = 64 C, or fewer where a side is shorter."""
    return F.adaptive_avg_pool2d(z, _sides(z.shape[2:])).flatten(1)


def coarse_factor(shape: tuple[int, int, int]) -> Tensor:
    """L of Cov = L L^T, the covariance of coarse values of z ~ N(0, I) of shape (C, H, W): lower, [D, D].

    Places overlap where 8 does not divide a side; rows, columns and channels are independent of each other.
    """
    factor = torch.eye(shape[0], dtype=torch.float64)
    for size, side in zip(shape[1:], _sides(shape[1:]), strict=True):
        weights = F.adaptive_avg_pool1d(torch.eye(size, dtype=torch.float64)[None], side)[0]
        own = torch.linalg.cholesky(weights.mT @ weights).contiguous()
        factor = torch.kron(factor, own)
    return factor.float()


def _sides(size: tuple[int, ...] | torch.Size) -> tuple[int, int]:
    return min(SIDE, size[0]), min(SIDE, size[1])


def regular_simplex(count: int) -> Tensor:
    """The corners of a regular simplex round the origin, of length 1: [K, K - 1]."""
    centred = torch.eye(count, dtype=torch.float64) - 1 / count
    corners = torch.linalg.eigh(centred).eigenvectors[:, 1:]  # the first, of eigenvalue 0, is constant
    return F.normalize(corners, dim=1).float()


def fit_anchors(q: Tensor, values: Tensor, factor: Tensor) -> Tensor:
    """Anchors a [K, D], a regular simplex as near as one can be to the mean gradients of q_k in coarse values.

    q: memberships [N, K] of images of latents whose coarse values are [N, D]; factor: L [D, D]. In u = L^-1 z8 ~
    N(0, I) the mean gradient is E[u q_k] (Stein 1981): forward passes alone. The nearest simplex is the orthogonal
    Procrustes solution (Schonemann 1966), for gradients of length 1. Scores a . z8 have a standard deviation of 1.
    """
    white = torch.linalg.solve_triangular(factor, values.mT, upper=False).mT
    gradients = F.normalize((q - q.mean(0)).mT @ white, dim=1)
    corners = regular_simplex(q.shape[1]).to(q)
    left, _, right = torch.linalg.svd(corners.mT @ gradients, full_matrices=False)
    return torch.linalg.solve_triangular(factor, corners @ left @ right, upper=False, left=False)


def fit_biases(wanted: Tensor, seed: int) -> Tensor:
    """Biases [R, K] with which the mean target over z ~ N(0, I) is `wanted` [R, K], sums of 1; on the CPU.

    Stochastic approximation (Robbins and Monro 1951) with averaged iterates (Polyak and Juditsky 1992):

        b_k <- b_k + rate (wanted_k - mean t_k) / wanted_k

    The ascent of semi-discrete entropic optimal transport's dual (Genevay et al., NeurIPS 2016), each coordinate
    scaled by its curvature. Scores of a regular simplex have one distribution, whatever its anchors.
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
    """The targets t = softmax((score + b) / 0.3) of scores a . z8 and biases b, both [..., K]: sums of 1."""
    return ((scores + biases) / SOFTNESS).softmax(-1)
