from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from gsd_cli.compute.random import latents
from gsd_cli.core.editing.unsupervised import principal_directions, sensitive_directions
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import Generator
from tests.support.linear import linear


def activations(generator: Generator, samples: int) -> np.ndarray:
    seen: list[Tensor] = []
    handle = generator.denoiser.net.mid_block.register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.no_grad():
        generator(latents(range(samples), generator.latent_shape, "directions"))
    handle.remove()
    return torch.cat(seen).flatten(1).double().numpy()


def test_components_are_the_eigenvectors_of_the_covariance(toy_teacher: Denoiser) -> None:
    generator = Generator(toy_teacher)
    found = principal_directions(generator, batch_size=16, samples=48)
    assert [d.name for d in found] == [f"pc{k}" for k in range(16)]
    values, vectors = np.linalg.eigh(np.cov(activations(generator, 48), rowvar=False))
    np.testing.assert_allclose([d.scale for d in found[:4]], np.sqrt(values[::-1][:4]), rtol=1e-3)
    for k in range(3):
        cosine = abs(found[k].vector.flatten().double().numpy() @ vectors[:, -1 - k])
        assert cosine == pytest.approx(1, abs=1e-3)
    assert found[0].figures["variance_share"] == pytest.approx(values[-1] / values.sum(), rel=1e-3)


def test_sensitive_directions_are_the_jacobians_singular_vectors() -> None:
    generator, (z,) = linear(), latents([0], (1, 8, 8))
    gains = torch.cat([torch.tensor([9.0, 5.0, 3.0, 2.0]), torch.full((60,), 0.1)])
    # images are W z: features are gains along rows of a rotation of the tangent space
    basis = torch.linalg.qr(torch.cat([z.flatten()[:, None], torch.eye(64)[:, :63]], 1)).Q[:, 1:]  # [64, 63]
    images_of = generator.weight @ basis  # type: ignore[operator]

    def features(images: Tensor) -> Tensor:
        return images.flatten(1) @ images_of * gains[:63]

    found = sensitive_directions(generator, z, features, count=4, rounds=12)
    for k, direction in enumerate(found):
        assert direction.figures["gain"] == pytest.approx(gains[k].item(), rel=1e-2)
        cosine = abs((direction.vector.flatten() @ basis[:, k]).item())
        assert cosine == pytest.approx(1, abs=1e-2)
        assert (direction.vector * z).sum().item() == pytest.approx(0, abs=1e-3)
        assert direction.vector.norm().item() == pytest.approx(1, abs=1e-4)
