"""How isometric a generator is: does the angle between latents say how far apart their images are?

All distances are between perceptual vectors of images (`embed`). Latents lie near a sphere; angles on it are in
radians, along great circles c(s) = cos(s) z + sin(s) w with independent z, w ~ N(0, I), w made tangent to the sphere
at z. A path is such a circle from c(0) to c(theta), theta uniform in [0.02, pi/2].
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
from gsd_cli.core.latents.walks import Embed
from gsd_cli.core.models.sphere import rotate, tangent
from gsd_cli.metrics.path_length import Images

REPORT_PATHS, EVALUATION_PATHS = 96, 40
"""Paths of the report of `gsd bench`, and of each evaluation during a training: 10 images per path."""
SEGMENTS = 8
STEP = 0.05
"""Radians of the small step at the start of each path whose speed is measured."""
NEIGHBOURS = 8
PROBES, DIRECTIONS, PROBE_STEP = 16, 8, 0.02


@dataclass(frozen=True)
class Isometry:
    """The figures of an evaluation; each is computed by the function of its name."""

    speed_cv: float
    spearman: float
    pair_distance: float


@dataclass(frozen=True)
class IsometryReport:
    """The isometry report. For a scaled isometry: speed_cv, stress and vor 0; the correlations and mcn 1.

    Each figure is computed by the function of its name: `speed_cv`, `spearman`, `stress`, `path_ratio`,
    `graph_spearman`, `effective_rank`, `condition_numbers` (mcn and vor), `pair_distance`.
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
    """Images along great circles: angles [P, S] from the start, vectors [P, S, E]."""

    angles: Tensor
    vectors: Tensor

    @property
    def lengths(self) -> Tensor:
        """The distance of each point to the next: [P, S - 1]."""
        return (self.vectors[:, 1:] - self.vectors[:, :-1]).norm(dim=2)


def isometry(
    images: Images, embed: Embed, shape: tuple[int, int, int], paths: int = EVALUATION_PATHS, seed: int = 0,
    batch_size: int = 64,
) -> Isometry:  # fmt: skip
    """Speed CV, Spearman and pair distance as in `isometry_report`, for evaluations during a training.

    The figures and their paths are those of the report; only the sample is smaller, EVALUATION_PATHS paths instead
    of REPORT_PATHS, so they are noisier. A few paths are held in memory at a time, not all vectors.
    """
    angles = _angles_and_step(paths, seed)
    at_once = max(1, batch_size // angles.shape[1])
    lengths, speeds, starts = [], [], []
    for first in range(0, paths, at_once):
        part = angles[first : first + at_once]
        found, speed = _split_step(great_circles(images, embed, shape, part, seed, batch_size, first=first))
        lengths.append(found.lengths.sum(1))
        speeds.append(speed)
        starts.append(found.vectors[:, 0])
    theta = angles[:, SEGMENTS].double()
    return Isometry(speed_cv(torch.cat(speeds)), spearman(theta, torch.cat(lengths)), pair_distance(torch.cat(starts)))


def isometry_report(
    images: Images, embed: Embed, shape: tuple[int, int, int], paths: int = REPORT_PATHS, seed: int = 0,
    batch_size: int = 64, on_batch: Callable[[int, int], None] = lambda done, total: None,
) -> IsometryReport:  # fmt: skip
    """Measure a generator on `paths` paths; images: latents [B, *shape] to images. on_batch counts images."""
    walked = paths * (SEGMENTS + 2)
    total = walked + PROBES * 2 * DIRECTIONS
    angles = _angles_and_step(paths, seed)
    seen = great_circles(images, embed, shape, angles, seed, batch_size, lambda done: on_batch(done, total))
    gram = pullback_metric(images, embed, shape, seed, batch_size, lambda done: on_batch(walked + done, total))
    found, speed = _split_step(seen)
    theta, length = found.angles[:, -1], found.lengths.sum(1)
    mcn, vor = condition_numbers(gram)
    return IsometryReport(
        speed_cv=speed_cv(speed),
        spearman=spearman(theta, length),
        stress=stress(theta, length),
        path_ratio=path_ratio(found),
        graph_spearman=graph_spearman(found),
        effective_rank=effective_rank(gram, math.prod(shape) - 1),
        mcn=mcn,
        vor=vor,
        pair_distance=pair_distance(found.vectors[:, 0]),
    )


def speed_cv(speeds: Tensor) -> float:
    """Coefficient of variation of speeds [P], distance per radian, over places and directions; 0 is isometric."""
    return (speeds.std() / speeds.mean()).item()


def spearman(angles: Tensor, lengths: Tensor) -> float:
    """Spearman correlation of angles and lengths [P] of paths of images; 1 is monotone, 0 where no image changes."""
    if lengths.max() - lengths.min() < 1e-9:  # images that do not change have no order
        return 0.0
    return float(spearmanr(angles.numpy(), lengths.numpy()).statistic)


def stress(angles: Tensor, lengths: Tensor) -> float:
    """sum (a theta - g)^2 / sum g^2 of angles theta and lengths g [P], with the best a."""
    slope = (lengths @ angles) / (angles @ angles)
    return ((slope * angles - lengths).square().sum() / lengths.square().sum()).item()


def path_ratio(paths: Paths) -> float:
    """Relative trajectory length: a path's length over its chord, mean; 1 for a straight path."""
    chords = (paths.vectors[:, -1] - paths.vectors[:, 0]).norm(dim=1)
    return (paths.lengths.sum(1) / chords).mean().item()


def pair_distance(vectors: Tensor) -> float:
    """Mean distance of independent images, each vector of [P, E] to the one before; it falls when a generator
    collapses."""
    return (vectors - vectors.roll(1, 0)).norm(dim=1).mean().item()


def _angles_and_step(paths: int, seed: int) -> Tensor:
    """The angles of each path, and STEP for the speed at its start: [paths, SEGMENTS + 2]."""
    return torch.cat([path_angles(paths, seed), torch.full((paths, 1), STEP)], 1)


def _split_step(seen: Paths) -> tuple[Paths, Tensor]:
    """The paths without their last column, and their speeds [P] from it."""
    speed = (seen.vectors[:, -1] - seen.vectors[:, 0]).norm(dim=1) / STEP
    return Paths(seen.angles[:, :-1], seen.vectors[:, :-1]), speed


def path_angles(paths: int, seed: int) -> Tensor:
    """SEGMENTS equal parts of angles uniform in [0.02, pi/2], from 0 on: [paths, SEGMENTS + 1]."""
    widest = 0.02 + (math.pi / 2 - 0.02) * torch.rand(paths, generator=generator_for(seed, "geometry-angle"))
    return widest[:, None] * torch.arange(SEGMENTS + 1) / SEGMENTS


@torch.no_grad()
def great_circles(
    images: Images, embed: Embed, shape: tuple[int, int, int], angles: Tensor, seed: int = 0,
    batch_size: int = 64, on_batch: Callable[[int], None] = lambda done: None, *, first: int = 0,
) -> Paths:  # fmt: skip
    """Images at the given angles [P, S] of the random great circles first to first + P - 1; circle k depends on
    (seed, k) alone."""
    seeds = [seed * 1_000_003 + k for k in range(first, first + len(angles))]
    z = latents(seeds, shape, "isometry-z")
    w = tangent(latents(seeds, shape, "isometry-w"), z)
    points = [rotate(z[k].expand(len(row), *shape), w[k].expand(len(row), *shape), row) for k, row in enumerate(angles)]
    vectors = _vectors(images, embed, torch.cat(points), batch_size, on_batch)
    return Paths(angles.double(), vectors.unflatten(0, angles.shape))


@torch.no_grad()
def pullback_metric(
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
    """How many directions matter: Tr(H)^2 / Tr(H^2) of H in `dimension` dimensions, estimated in random frames.

    gram: the entries of H in random orthonormal frames, [Q, k, k]. For Haar frames and a != b,
    E[h_ab^2] = (D Tr(H^2) - Tr(H)^2) / c and E[h_aa h_bb] = ((D + 1) Tr(H)^2 - 2 Tr(H^2)) / c with
    c = D (D - 1) (D + 2); solved for the ratio of E[Tr(H)^2] to E[Tr(H^2)] over latents. Frames are not scaled to one
    trace first: the trace of a frame goes with its entries, and dividing by it would bias the rank upwards. 0 where no
    image changes.
    """
    diagonal = gram.diagonal(dim1=1, dim2=2)
    own = diagonal.square().sum(1)
    crossed = (gram.square().sum((1, 2)) - own).mean()
    product = (diagonal.sum(1).square() - own).mean()
    if product <= 0:
        return 0.0
    return ((dimension * product + 2 * crossed) / (product + (dimension + 1) * crossed)).item()


def condition_numbers(gram: Tensor) -> tuple[float, float]:
    """mcn and vor of Hahm et al. (ICML 2024), from J^T J in k random tangents at Q >= 2 latents [Q, k, k].

    With the singular values s_i of J so restricted: the mean condition number, s_max / s_min, and the variance of the
    metric, the sum over i of Var log s_i.
    """
    singular = torch.linalg.eigvalsh(gram).clamp(min=1e-20).sqrt()
    return (singular[:, -1] / singular[:, 0]).mean().item(), singular.log().var(0).sum().item()


def graph_spearman(paths: Paths) -> float:
    """Spearman correlation of the angle from each path's start and the shortest way through a graph.

    The graph joins each image to its nearest neighbours among all images (Isomap, Tenenbaum et al. 2000), to more of
    them until it is connected: a check that does not know the paths.
    """
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
    return spearman(paths.angles[:, 1:].flatten(), torch.from_numpy(own).flatten())


def _nearest(apart: np.ndarray, k: int) -> csr_array:
    n = len(apart)
    order = np.argpartition(apart + np.diag(np.full(n, np.inf)), k - 1, axis=1)[:, :k]
    rows = np.repeat(np.arange(n), k)
    # a sparse graph has no edges of length 0, but images may be equal
    return csr_array((apart[rows, order.ravel()] + 1e-12, (rows, order.ravel())), shape=(n, n))


def _vectors(images: Images, embed: Embed, z: Tensor, batch_size: int, on_batch: Callable[[int], None]) -> Tensor:
    """Perceptual vectors of all latents, float64 on the CPU: small differences are squared next."""
    vectors, done = [], 0
    for part in z.split(batch_size):
        vectors.append(embed(images(part)).cpu().double())
        done += len(part)
        on_batch(done)
    return torch.cat(vectors)
