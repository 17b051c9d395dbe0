"""The tables of equal steps."""

from __future__ import annotations

import torch

from gsd_cli.core.explorer.walk_tables import FRAMES, walk_tables
from gsd_cli.core.latents.inversion import encoder_features
from gsd_cli.core.latents.walks import interpolate, unevenness
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import Generator


def test_walks_have_a_table_per_pair(toy_teacher: Denoiser) -> None:
    generator = Generator(toy_teacher.eval())
    starts = list(torch.randn(3, *generator.latent_shape))
    seen: list[int] = []
    tables = walk_tables(generator, starts, 64, lambda done, total: seen.append(total))
    assert list(tables) == [(0, 1), (0, 2), (1, 2)] and seen == [3, 3, 3]
    features = encoder_features(generator)
    for (a, b), s in tables.items():
        assert s[0] == 0 and s[-1] == 1 and s == sorted(s) and len(s) == FRAMES
        with torch.no_grad():
            vectors = features(generator(interpolate(starts[a], starts[b], torch.tensor(s), "slerp")))
        assert unevenness((vectors[1:] - vectors[:-1]).norm(dim=1)) < 1.3
