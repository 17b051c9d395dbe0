from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from gsd_cli.core.denoiser import Denoiser
from gsd_cli.core.directions import edited, principal_directions, stored_directions
from gsd_cli.core.generator import Generator
from gsd_cli.core.noise import latents
from gsd_cli.errors import GsdError


def activations(generator: Generator, samples: int) -> np.ndarray:
    seen: list[Tensor] = []
    handle = generator.denoiser.net.mid_block.register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.no_grad():
        generator(latents(range(samples), generator.latent_shape, "directions"))
    handle.remove()
    return torch.cat(seen).flatten(1).double().numpy()


def test_directions_are_the_eigenvectors_of_the_covariance(toy_teacher: Denoiser) -> None:
    generator = Generator(toy_teacher)
    found = principal_directions(generator, batch_size=16, samples=48)
    values, vectors = np.linalg.eigh(np.cov(activations(generator, 48), rowvar=False))
    np.testing.assert_allclose(found.deviations[:4].numpy(), np.sqrt(values[::-1][:4]), rtol=1e-3)
    for k in range(3):
        cosine = abs(found.vectors[k].flatten().double().numpy() @ vectors[:, -1 - k])
        assert cosine == pytest.approx(1, abs=1e-3)


def test_a_shift_of_nothing_changes_nothing_and_the_hook_is_gone_after(toy_teacher: Denoiser) -> None:
    generator = Generator(toy_teacher)
    directions = principal_directions(generator, 16, samples=32)
    z = latents([3], generator.latent_shape)
    with torch.no_grad():
        plain = generator(z)
    torch.testing.assert_close(edited(generator, z, directions.shift("pc0", 0.0)[None]), plain)
    moved = edited(generator, z, directions.shift("pc0", 3.0)[None])
    assert (moved - plain).abs().max() > 1e-4
    with torch.no_grad():
        torch.testing.assert_close(generator(z), plain)


def test_strength_is_in_standard_deviations(toy_teacher: Denoiser) -> None:
    directions = principal_directions(Generator(toy_teacher), 16, samples=32)
    shift = directions.shift("pc1", 2.5)
    assert shift.norm().item() == pytest.approx(2.5 * directions.deviations[1].item(), rel=1e-5)
    with pytest.raises(GsdError, match="smile"):
        directions.shift("smile", 1)


def test_directions_are_stored_once_and_read_back(toy_teacher: Denoiser, tmp_path: Path) -> None:
    generator = Generator(toy_teacher)
    path = tmp_path / "cache" / "d.safetensors"
    first = stored_directions(generator, path, 256)
    stamp = path.stat().st_mtime_ns
    again = stored_directions(generator, path, 256)
    assert path.stat().st_mtime_ns == stamp
    torch.testing.assert_close(again.vectors, first.vectors)
