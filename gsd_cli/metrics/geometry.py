"""The geometry of a generator: does the angle between latents say how far apart the pictures are?

All distances are between perceptual vectors of pictures (`embed`). Latents lie near a sphere; angles
on it are in radians, along great circles c(s) = cos(s) z + sin(s) w with independent z, w ~ N(0, I).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, shortest_path
from scipy.stats import spearmanr
from torch import Tensor

from gsd_cli.compute.random import generator_for, latents
from gsd_cli.core.models.sphere import rotate, tangent
from gsd_cli.metrics.path_length import Images

Embed = Callable[[Tensor], Tensor]

PATHS = 96
SEGMENTS = 8
STEP = 0.05
"""Radians of the small step at the start of each path whose speed is measured."""
NEIGHBOURS = 8
PROBES, DIRECTIONS, PROBE_STEP = 16, 8, 0.02


@dataclass(frozen=True)
class Geometry:
    """The isometry report. For a scaled isometry: cv, stress and vor 0; the correlations and mcn 1.

    speed_cv: coefficient of variation of the speed, distance per radian, over places and directions.
    spearman: of the angle theta in [0.02, pi/2] and g, the length of the pictures' path.
    stress: sum (a theta - g)^2 / sum g^2 with the best a.
    path_ratio: relative trajectory length, path over chord, mean; 1 for a straight path.
    graph_spearman: of theta and the shortest way between the pictures through a graph of nearest
        neighbours (Isomap, Tenenbaum et al. 2000): a check that knows nothing of paths.
    effective_rank: Tr(H)^2 / Tr(H^2), H = J^T J on the latent sphere: how many directions matter.
    mcn, vor: Hahm et al.'s (ICML 2024) condition number s_max / s_min, mean, and sum over i of
        Var log s_i, of the singular values s_i of J restricted to DIRECTIONS random tangents.
    pair_distance: mean distance of independent pictures; it falls when a generator collapses.
    """

    speed_cv: float
    spearman: float
    stress: float
    path_ratio: float
    graph_spearman: float
    effective_rank: float
    mcn: float
    vor: float
    pair_distance: float


@dataclass(frozen=True)
class Paths:
    """Pictures along great circles: angles [P, S] from the start, vectors [P, S, E]."""

    angles: Tensor
    vectors: Tensor

    @property
    def lengths(self) -> Tensor:
        """The distance of each point to the next: [P, S - 1]."""
        return (self.vectors[:, 1:] - self.vectors[:, :-1]).norm(dim=2)


def geometry(
    images: Images, embed: Embed, shape: tuple[int, int, int], paths: int = PATHS, seed: int = 0,
    batch_size: int = 64, on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> Geometry:  # fmt: skip
    """Measure a generator; images: latents [B, *shape] to pictures. on_batch counts pictures."""
    walked = paths * (SEGMENTS + 2)
    total = walked + PROBES * 2 * DIRECTIONS
    angles = torch.cat([path_angles(paths, seed), torch.full((paths, 1), STEP)], 1)
    seen = great_circles(images, embed, shape, angles, seed, batch_size, lambda done: on_batch(done, total))
    near, found = seen.vectors[:, -1], Paths(seen.angles[:, :-1], seen.vectors[:, :-1])
    gram = metric(images, embed, shape, seed, batch_size, lambda done: on_batch(walked + done, total))
    starts, ends = found.vectors[:, 0], found.vectors[:, -1]
    g, theta = found.lengths.sum(1), found.angles[:, -1]
    a = (g @ theta) / (theta @ theta)
    speed = (near - starts).norm(dim=1) / STEP
    mcn, vor = condition(gram)
    return Geometry(
        speed_cv=(speed.std() / speed.mean()).item(),
        spearman=_spearman(theta, g),
        stress=((a * theta - g).square().sum() / g.square().sum()).item(),
        path_ratio=(g / (ends - starts).norm(dim=1)).mean().item(),
        graph_spearman=graph_correlation(found),
        effective_rank=effective_rank(gram, math.prod(shape) - 1),
        mcn=mcn,
        vor=vor,
        pair_distance=(starts - starts.roll(1, 0)).norm(dim=1).mean().item(),
    )


def path_angles(paths: int, seed: int) -> Tensor:
    """SEGMENTS equal parts of angles uniform in [0.02, pi/2], from 0 on: [paths, SEGMENTS + 1]."""
    widest = 0.02 + (math.pi / 2 - 0.02) * torch.rand(paths, generator=generator_for(seed, "geometry-angle"))
    return widest[:, None] * torch.arange(SEGMENTS + 1) / SEGMENTS


@torch.no_grad()
def great_circles(
    images: Images, embed: Embed, shape: tuple[int, int, int], angles: Tensor, seed: int = 0,
    batch_size: int = 64, on_batch: Callable[[int], None] = lambda done: None,
) -> Paths:  # fmt: skip
    """Pictures at the given angles [P, S] of P random great circles; circle k depends on (seed, k) alone."""
    seeds = [seed * 1_000_003 + k for k in range(len(angles))]
    z = latents(seeds, shape, "isometry-z")
    w = tangent(latents(seeds, shape, "isometry-w"), z)
    points = [rotate(z[k].expand(len(row), *shape), w[k].expand(len(row), *shape), row) for k, row in enumerate(angles)]
    vectors = _vectors(images, embed, torch.cat(points), batch_size, on_batch)
    return Paths(angles.double(), vectors.unflatten(0, angles.shape))


@torch.no_grad()
def metric(
    images: Images, embed: Embed, shape: tuple[int, int, int], seed: int = 0, batch_size: int = 64,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Tensor:  # fmt: skip
    """The metric H = J^T J in DIRECTIONS random orthonormal tangents at PROBES latents, by central
    differences: [PROBES, DIRECTIONS, DIRECTIONS], per squared radian."""
    seeds = [seed * 1_000_003 + k for k in range(PROBES)]
    z = latents(seeds, shape, "isometry-z")
    frames = torch.stack([latents(seeds, shape, f"isometry-frame-{i}") for i in range(DIRECTIONS)], 1)
    # the first column of Q spans z, the others are tangents
    q = torch.linalg.qr(torch.cat([z[:, None], frames], 1).flatten(2).mT.double()).Q
    norms = z.flatten(1).norm(dim=1)[:, None, None]
    tangents = (q.mT[:, 1:] * norms).float().unflatten(2, shape)
    centres = z[:, None].expand_as(tangents)
    both = torch.stack([rotate(centres, tangents, torch.tensor(s * PROBE_STEP)) for s in (1, -1)])
    vectors = _vectors(images, embed, both.flatten(0, 2), batch_size, on_batch).unflatten(0, both.shape[:3])
    j = (vectors[0] - vectors[1]) / (2 * PROBE_STEP)  # [PROBES, DIRECTIONS, E]
    return j @ j.mT


def effective_rank(gram: Tensor, dimension: int) -> float:
    """Tr(H)^2 / Tr(H^2) of H in `dimension` dimensions, from its entries in random orthonormal frames.

    gram: [Q, k, k], each scaled to one trace: slow latents count as much as fast ones. For Haar frames
    and a != b, E[h_ab^2] = (D Tr(H^2) - Tr(H)^2) / c and E[h_aa h_bb] = ((D + 1) Tr(H)^2 - 2 Tr(H^2)) / c
    with c = D (D - 1) (D + 2); solved for the ratio.
    """
    diagonal = gram.diagonal(dim1=1, dim2=2)
    gram = gram / diagonal.sum(1)[:, None, None]
    diagonal = gram.diagonal(dim1=1, dim2=2)
    own = diagonal.square().sum(1)
    crossed = (gram.square().sum((1, 2)) - own).mean()
    product = (diagonal.sum(1).square() - own).mean()
    return ((dimension * product + 2 * crossed) / (product + (dimension + 1) * crossed)).item()


def condition(gram: Tensor) -> tuple[float, float]:
    """The mean condition number and the variance of the metric, from J^T J at Q >= 2 latents [Q, k, k]."""
    singular = torch.linalg.eigvalsh(gram).clamp(min=1e-20).sqrt()
    return (singular[:, -1] / singular[:, 0]).mean().item(), singular.log().var(0).sum().item()


def graph_correlation(paths: Paths) -> float:
    """Spearman correlation of the angle from each path's start and the shortest way through the graph
    that joins each picture to its nearest neighbours among all; more of them until it is connected."""
    count, size = paths.angles.shape
    x = paths.vectors.flatten(0, 1)
    apart = torch.cdist(x, x).numpy()
    neighbours = NEIGHBOURS
    while True:
        graph = _nearest(apart, min(neighbours, len(x) - 1))
        if neighbours >= len(x) - 1 or connected_components(graph, directed=False)[0] == 1:
            break
        neighbours *= 2
    starts = np.arange(count) * size
    ways = shortest_path(graph, directed=False, indices=starts).reshape(count, count, size)
    own = ways[np.arange(count), np.arange(count), 1:]
    return _spearman(paths.angles[:, 1:].flatten(), torch.from_numpy(own).flatten())


def _nearest(apart: np.ndarray, k: int) -> csr_array:
    n = len(apart)
    order = np.argpartition(apart + np.diag(np.full(n, np.inf)), k - 1, axis=1)[:, :k]
    rows = np.repeat(np.arange(n), k)
    # a sparse graph has no edges of length 0, but pictures may be equal
    return csr_array((apart[rows, order.ravel()] + 1e-12, (rows, order.ravel())), shape=(n, n))


def _vectors(images: Images, embed: Embed, z: Tensor, batch_size: int, on_batch: Callable[[int], None]) -> Tensor:
    """Perceptual vectors of all latents, float64 on the CPU: small differences are squared next."""
    made, done = [], 0
    for part in z.split(batch_size):
        made.append(embed(images(part)).cpu().double())
        done += len(part)
        on_batch(done)
    return torch.cat(made)


def _spearman(a: Tensor, b: Tensor) -> float:
    if b.max() - b.min() < 1e-9:  # pictures that do not move are ordered in no way
        return 0.0
    return float(spearmanr(a.numpy(), b.numpy()).statistic)
