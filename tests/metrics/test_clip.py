"""CLIP's features, on a file of the form of OpenAI's: a TorchScript archive of half-precision weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

from gsd_cli.base.errors import GsdError
from gsd_cli.metrics import clip as module
from gsd_cli.metrics.clip import clip_features

WIDTH, LAYERS, PATCH, FEATURES = 128, 2, 32, 16


class QuickGELU(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """The paper's residual attention block, under the names that the archive has."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, WIDTH // 64)
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(WIDTH, 4 * WIDTH))
        self.mlp.add_module("gelu", QuickGELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(Block() for _ in range(LAYERS)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.resblocks(x)


class Visual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn((224 // PATCH) ** 2 + 1, WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = Blocks()
        self.proj = nn.Parameter(torch.randn(WIDTH, FEATURES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x).flatten(2).permute(2, 0, 1)  # tokens first, as OpenAI's code has it
        x = torch.cat([self.class_embedding.expand(1, x.shape[1], -1), x])
        x = self.ln_pre(x + self.positional_embedding[:, None])
        return self.ln_post(self.transformer(x)[0]) @ self.proj


class StandIn(nn.Module):
    """Image side with a piece of the text side next to it, which is not to be read."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = Visual()
        self.token_embedding = nn.Embedding(5, 8)
        self.logit_scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.visual(x)


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    torch.manual_seed(3)
    path = tmp_path / "clip" / module.FILE
    path.parent.mkdir()
    net = StandIn().eval().half()
    torch.jit.script(net).save(str(path))
    monkeypatch.setattr(module, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return net.float()


@pytest.mark.parametrize("channels", [1, 3])
@torch.no_grad()
def test_features_are_those_of_the_archive_on_pictures_resized_as_clean_fid_does(
    channels: int, standin: nn.Module, tmp_path: Path
) -> None:
    found = clip_features(tmp_path, torch.device("cpu"), offline=True)
    images = torch.rand(3, channels, 32, 40) * 2 - 1
    # clean-fid's own steps, by torchvision's transforms
    shape = transforms.Compose(
        [transforms.Resize(224, interpolation=transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(224)]
    )
    pixels = (images * 127.5 + 127.5).round().to(torch.uint8).expand(-1, 3, -1, -1)
    seen = [np.asarray(shape(Image.fromarray(p.permute(1, 2, 0).numpy()))) for p in pixels]
    x = torch.from_numpy(np.stack(seen)).permute(0, 3, 1, 2) / 255
    x = transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))(x)
    torch.testing.assert_close(found.features(images), standin(x), rtol=1e-4, atol=1e-4)
    assert found.features(images).shape == (3, FEATURES)


def test_another_file_is_refused(standin: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHA256", "0" * 64)
    with pytest.raises(GsdError, match="damaged") as caught:
        clip_features(tmp_path, torch.device("cpu"), offline=True)
    assert caught.value.code == 3


def test_without_it_the_place_is_named(tmp_path: Path) -> None:
    with pytest.raises(GsdError, match="CLIP") as caught:
        clip_features(tmp_path, torch.device("cpu"), offline=True)
    assert caught.value.code == 4
    assert module.FILE in str(caught.value.hint)
