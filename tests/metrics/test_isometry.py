"""Isometry of linear generators, which has closed forms."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from gsd_cli.metrics.isometry import (
    Paths,
    condition_numbers,
    effective_rank,
    graph_spearman,
    isometry,
    isometry_report,
)

D = 16 * 16


def flat(images: Tensor) -> Tensor:
    return images.flatten(1)


def scaled(factor: float):  # type: ignore[no-untyped-def]
    return lambda z: factor * z.double()


def test_an_evaluation_measures_what_the_report_measures() -> None:
    """The figures have one definition: on as many paths they are equal, however few paths are held at a time."""
    stretch = torch.linspace(0.1, 3, 8)
    for paths in (7, 12):
        report = asdict(isometry_report(lambda z: z * stretch, flat, (1, 8, 8), paths=paths))
        for batch_size in (4, 64):
            found = asdict(isometry(lambda z: z * stretch, flat, (1, 8, 8), paths=paths, batch_size=batch_size))
            assert found == pytest.approx({name: report[name] for name in found})


def test_a_scaled_identity_is_isometric_and_a_stretched_one_is_not() -> None:
    even = isometry(scaled(2), flat, (1, 32, 32), paths=128)
    # what is left is the spread of |z - w| itself, about 1 / sqrt(2 d)
    assert even.speed_cv < 0.05
    assert even.spearman > 0.99
    stretch = torch.ones(1, 32, 32, dtype=torch.float64)
    stretch[0, 0, 0] = 200
    uneven = isometry(lambda z: stretch * z.double(), flat, (1, 32, 32), paths=128)
    assert uneven.speed_cv > 0.5


def test_mean_distance_of_random_pairs_is_that_of_two_gaussians() -> None:
    found = isometry(scaled(1), flat, (1, 32, 32), paths=64)
    assert found.pair_distance == pytest.approx(math.sqrt(2 * 32 * 32), rel=0.02)


def test_the_report_of_an_orthogonal_generator() -> None:
    q = torch.linalg.qr(torch.randn(D, D)).Q
    found = isometry_report(lambda z: 3 * (z.flatten(1) @ q.T).reshape(z.shape), flat, (1, 16, 16), paths=48)
    # the lengths of latents spread by 1 / sqrt(2 d)
    assert found.speed_cv < 1.4 / math.sqrt(2 * D)
    assert found.stress < 2 / (2 * D)
    assert found.spearman > 0.99
    assert found.effective_rank == pytest.approx(D - 1, rel=1e-2)
    assert found.mcn == pytest.approx(1, abs=1e-3)
    assert found.vor == pytest.approx(8 / (2 * D), rel=0.9)  # of the lengths again
    assert found.pair_distance == pytest.approx(3 * math.sqrt(2 * D), rel=0.03)
    # arc against chord: theta / (2 sin(theta / 2)) is 1 to 1.11 for theta up to pi / 2
    assert 1.02 < found.path_ratio < 1.06
    assert found.graph_spearman > 0.9


def test_the_report_of_an_anisotropic_linear_generator() -> None:
    scales = torch.linspace(0.1, 4, D).square()
    q, p = torch.linalg.qr(torch.randn(2, D, D)).Q
    a = q @ torch.diag(scales) @ p
    found = isometry_report(lambda z: (z.flatten(1) @ a.T).reshape(z.shape), flat, (1, 16, 16), paths=48)
    h = scales**2
    assert found.effective_rank == pytest.approx((h.sum() ** 2 / h.square().sum()).item(), rel=0.25)
    # Var(u . H u) / E^2 = 2 (D Tr H^2 / Tr(H)^2 - 1) / (D + 2), halved for the speed itself, and |z|'s own spread
    share = D * h.square().sum() / h.sum() ** 2
    wanted = math.sqrt((2 * (share - 1) / (D + 2)).item() / 4 + 1 / (2 * D))
    assert found.speed_cv == pytest.approx(wanted, rel=0.3)
    assert found.mcn > 1.2


def test_a_collapsed_generator_has_a_report_too() -> None:
    found = isometry_report(lambda z: 0 * z, flat, (1, 4, 4), paths=8)
    assert found.spearman == found.graph_spearman == found.pair_distance == 0


def test_effective_rank_from_random_frames_is_that_of_the_matrix() -> None:
    h = torch.diag(torch.linspace(0.1, 3, 20, dtype=torch.float64))
    q = torch.linalg.qr(torch.randn(20000, 20, 4, dtype=torch.float64)).Q
    wanted = (h.trace() ** 2 / (h @ h).trace()).item()
    assert effective_rank(q.mT @ h @ q, 20) == pytest.approx(wanted, rel=0.01)
    assert effective_rank(torch.eye(4).repeat(3, 1, 1).double(), 20) == pytest.approx(20)


@pytest.mark.parametrize("decay", [1.5, 2.0])
def test_effective_rank_is_not_biased_where_few_directions_matter(decay: float) -> None:
    """Traces of random frames then differ a lot. Scaling each to one trace made the rank an eighth too large."""
    values = torch.arange(1, 201, dtype=torch.float64) ** -decay
    wanted = (values.sum() ** 2 / values.square().sum()).item()
    q = torch.linalg.qr(torch.randn(3200, 200, 8, dtype=torch.float64)).Q
    gram = q.mT @ (values[:, None] * q)
    assert effective_rank(gram, 200) == pytest.approx(wanted, rel=0.06)
    scaled = effective_rank(gram / gram.diagonal(dim1=1, dim2=2).sum(1)[:, None, None], 200)
    assert scaled > 1.09 * wanted
    # the sizes of a bench: 16 latents
    few = [effective_rank(part, 200) for part in gram.split(16)]
    assert sum(few) / len(few) == pytest.approx(wanted, rel=0.08)


def test_effective_rank_weighs_latents_by_their_traces() -> None:
    """E[Tr(H)^2] / E[Tr(H^2)] of two latents, a fast one of rank 1 and a slow one of full rank."""
    q = torch.linalg.qr(torch.randn(20000, 12, 4, dtype=torch.float64)).Q
    fast, slow = torch.zeros(12, 12).double(), 0.3 * torch.eye(12).double()
    fast[0, 0] = 6
    gram = torch.cat([q[:10000].mT @ fast @ q[:10000], q[10000:].mT @ slow @ q[10000:]])
    wanted = (6**2 + 3.6**2) / (6**2 + 12 * 0.09)
    assert effective_rank(gram, 12) == pytest.approx(wanted, rel=0.03)
    assert effective_rank(torch.zeros(3, 4, 4), 12) == 0


def test_condition_is_of_the_singular_values() -> None:
    values = torch.tensor([[1.0, 2.0, 4.0], [1.0, 3.0, 9.0]], dtype=torch.float64)
    mcn, vor = condition_numbers(torch.diag_embed(values.square()))
    assert mcn == pytest.approx((4 + 9) / 2)
    wanted = sum(values[:, i].log().var().item() for i in range(3))
    assert vor == pytest.approx(wanted)


def test_the_graph_finds_the_way_that_the_chord_cuts_short() -> None:
    angles = torch.linspace(0, 1.6 * math.pi, 60, dtype=torch.float64)[None].repeat(2, 1)
    ring = torch.stack([angles.cos(), angles.sin()], 2)
    ring[1] += torch.tensor([0.01, 0.0])
    found = graph_spearman(Paths(angles, ring))
    assert found > 0.99
    chords = (ring[0, 1:] - ring[0, 0]).norm(dim=1)
    assert spearmanr(angles[0, 1:], chords).statistic < 0.8  # they shrink again past half the ring
    # separate islands are joined by more neighbours
    ring[1] += torch.tensor([50.0, 0.0])
    assert graph_spearman(Paths(angles, ring)) > 0.3
