"""Feature maps of the isometric term, on files of the real format with random weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models.vgg import cfgs, make_layers

from gsd_cli.base.errors import GsdError
from gsd_cli.core.models import lpips as module
from gsd_cli.core.models.autoencoder import Autoencoder
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.feature_maps import FEATURE_MAPS, FeatureMap, FeatureMapSources, build_feature_map

CPU = torch.device("cpu")


def sources(teacher: Denoiser, cache: Path, std: tuple[float, ...] = (0.5,)) -> FeatureMapSources:
    return FeatureMapSources(teacher, Autoencoder(), std, cache, offline=True, device=CPU)


@pytest.fixture(scope="module")
def lpips_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with VGG16 and LPIPS files as they are published, but of random weights."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("cache")
    (folder / "lpips").mkdir()
    layers = {f"features.{k}": v for k, v in make_layers(cfgs["D"]).state_dict().items()}
    layers["classifier.0.weight"] = torch.zeros(2, 2)  # what is not used is not read
    torch.save(layers, folder / "lpips" / module.VGG_FILE, _use_new_zipfile_serialization=False)
    widths = (64, 128, 256, 512, 512)
    linear = {f"lin{i}.model.1.weight": torch.rand(1, n, 1, 1) for i, n in enumerate(widths)}
    torch.save(linear, folder / "lpips" / module.LINEAR_FILE, _use_new_zipfile_serialization=False)
    return folder


@pytest.fixture
def lpips(lpips_cache: Path, toy_teacher: Denoiser, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FeatureMap:
    for file, name in ((module.VGG_FILE, "VGG_SHA256"), (module.LINEAR_FILE, "LINEAR_SHA256")):
        digest = hashlib.sha256((lpips_cache / "lpips" / file).read_bytes()).hexdigest()
        monkeypatch.setattr(module, name, digest)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return build_feature_map("lpips", sources(toy_teacher, lpips_cache))


def test_lpips_is_torchmetrics_lpips(lpips: FeatureMap, lpips_cache: Path) -> None:
    theirs = pytest.importorskip("torchmetrics.functional.image.lpips")
    net = theirs._LPIPS(pretrained=False, net="vgg", pnet_rand=True).eval()
    state = torch.load(lpips_cache / "lpips" / module.VGG_FILE, weights_only=True)
    taken = {k: state[f"features.{k.split('.', 1)[1]}"] for k in net.net.state_dict()}
    net.net.load_state_dict(taken)
    linear = torch.load(lpips_cache / "lpips" / module.LINEAR_FILE, weights_only=True)
    net.load_state_dict(net.state_dict() | linear)
    a, b = torch.rand(2, 3, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        wanted = net(a, b).flatten()
        found = (lpips(a) - lpips(b)).square().sum(1)
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-4)
    grey = torch.rand(2, 1, 32, 32) * 2 - 1
    torch.testing.assert_close(lpips(grey), lpips(grey.expand(-1, 3, -1, -1)))


def test_lpips_has_a_finite_gradient_at_flat_and_equal_images(lpips: FeatureMap) -> None:
    images = torch.zeros(2, 3, 32, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(lpips(images).square().sum(), images)
    assert gradient.isfinite().all()


def test_weights_that_are_missing_or_others_are_named(toy_teacher: Denoiser, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(GsdError, match="VGG16") as missing:
        build_feature_map("lpips", sources(toy_teacher, tmp_path))
    assert missing.value.code == 4
    assert "--irl-phi teacher" in str(missing.value.hint)
    (tmp_path / "lpips").mkdir()
    (tmp_path / "lpips" / module.VGG_FILE).write_bytes(b"something else")
    with pytest.raises(GsdError, match="damaged"):
        build_feature_map("lpips", sources(toy_teacher, tmp_path))


@pytest.mark.parametrize("name", ["teacher", "pixels"])
def test_feature_maps_are_float32_vectors_with_gradients(name: str, toy_teacher: Denoiser, tmp_path: Path) -> None:
    phi = build_feature_map(name, sources(toy_teacher, tmp_path))
    images = (torch.rand(3, 1, 16, 16) * 2 - 1).requires_grad_(True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        vectors = phi(images)
    assert vectors.dtype == torch.float32
    assert vectors.shape[0] == 3
    assert vectors.ndim == 2
    (gradient,) = torch.autograd.grad(vectors.square().sum(), images)
    assert (gradient.flatten(1).norm(dim=1) > 0).all()
    assert set(FEATURE_MAPS) == {"teacher", "lpips", "pixels"}


def test_pixels_are_measured_in_standard_deviations_of_the_data(toy_teacher: Denoiser, tmp_path: Path) -> None:
    phi = build_feature_map("pixels", sources(toy_teacher, tmp_path, (0.5, 0.25, 1.0)))
    a = torch.zeros(1, 3, 32, 32)
    b = a.clone()
    b[:, 1] += 0.25  # one deviation everywhere in one channel
    assert (phi(a) - phi(b)).norm().item() == pytest.approx(1.0, rel=1e-6)
    noise = torch.randn(64, 3, 32, 32)
    assert phi(noise).square().sum(1).mean().item() == pytest.approx((4 + 16 + 1) / 16, rel=0.1)  # pooled over 4 x 4


def test_teacher_features_do_not_see_brightness_of_maps(toy_teacher: Denoiser, tmp_path: Path) -> None:
    from gsd_cli.core.models.feature_maps import normalise_channels

    maps = [torch.rand(2, 5, 4, 4), torch.rand(2, 7, 2, 2)]
    vectors = normalise_channels(maps)
    torch.testing.assert_close(vectors, normalise_channels([3 * m for m in maps]))
    # unit vectors at each place, averaged: every map adds 1
    torch.testing.assert_close(vectors.square().sum(1), torch.full((2,), 2.0), rtol=1e-4, atol=0)
