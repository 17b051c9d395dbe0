from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gsd_cli.base.errors import GsdError
from gsd_cli.core.models.classifier import load_features, save_features
from gsd_cli.core.models.feature_nets import ResidualNet
from gsd_cli.metrics import features as module
from gsd_cli.metrics.features import classifier_features, inception_features


def test_features_round_trip_and_count_images_as_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = ResidualNet(1, 10).eval().half().float()
    save_features(net, tmp_path, {"name": "toy"})
    images = torch.rand(4, 1, 32, 32) * 2 - 1
    torch.testing.assert_close(load_features(tmp_path)(images), net(images))
    extractor = classifier_features(str(tmp_path), torch.device("cpu"))
    # 8-bit rounding is part of a saved image, and values outside [-1, 1] are clamped
    torch.testing.assert_close(extractor.features(images + 1e-4), extractor.features(images), atol=2e-2, rtol=0)
    torch.testing.assert_close(extractor.features(images * 9), extractor.features((images * 9).clamp(-1, 1)))


def test_damaged_features_are_named(tmp_path: Path) -> None:
    save_features(ResidualNet(1, 3), tmp_path, {"name": "toy"})
    path = tmp_path / "features.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(GsdError, match="cannot read the features"):
        load_features(tmp_path)


def test_inception_is_checked_by_hash_and_missing_is_exit_4(tmp_path: Path) -> None:
    with pytest.raises(GsdError) as missing:
        inception_features(tmp_path, torch.device("cpu"), offline=True)
    assert missing.value.code == 4
    path = tmp_path / "inception" / module.INCEPTION_FILE
    path.parent.mkdir()
    path.write_bytes(b"not inception")
    with pytest.raises(GsdError, match="damaged"):
        inception_features(tmp_path, torch.device("cpu"), offline=True)


class StandIn(torch.nn.Module):
    """A TorchScript file of Inception's interface: `layers` maps [B, 3, 299, 299] to 2048 features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d((32, 64)), torch.nn.Conv2d(3, 1, 1))

    def forward(self, x: torch.Tensor, return_features: bool = True) -> torch.Tensor:
        return self.layers((x - 128) / 128)


def test_our_road_to_fid_is_clean_fids_on_a_file_of_the_same_interface(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cleanfid.fid import get_folder_features as folder_features
    from cleanfid.inception_torchscript import InceptionV3W

    cache = tmp_path / "cache"
    path = cache / "inception" / module.INCEPTION_FILE
    path.parent.mkdir(parents=True)
    torch.manual_seed(0)
    torch.jit.script(StandIn().eval()).save(str(path))
    monkeypatch.setattr(module, "INCEPTION_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())

    images = torch.rand(6, 1, 32, 32) * 2 - 1
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, pixels in enumerate(module.to_uint8(images).numpy()):
        Image.fromarray(pixels[0]).save(folder / f"{i}.png")
    theirs = folder_features(
        str(folder), InceptionV3W(str(path.parent), download=False), num_workers=0, device=torch.device("cpu"),
        mode="clean", verbose=False, batch_size=6,
    )  # fmt: skip
    ours = inception_features(cache, torch.device("cpu"), offline=True).features(images)
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-6)
