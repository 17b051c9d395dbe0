"""Stable Diffusion 3's transformer, small, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.core.models.adapters import adapt, merge
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.diffusers_folder import build_denoiser, load_autoencoder, load_denoiser, save_denoiser
from gsd_cli.core.models.sd3_config import text_sizes
from gsd_cli.core.models.teacher_config import read_teacher_config
from tests.support import teachers


def texts(count: int) -> Condition:
    random = torch.Generator().manual_seed(3)
    return Condition(
        embeddings=torch.randn(count, 7, 10, generator=random), pooled=torch.randn(count, 12, generator=random)
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return teachers.text_pipeline(tmp_path / "teacher", "SD3")


@pytest.fixture
def model(folder: Path) -> Denoiser:
    return build_denoiser(read_teacher_config(folder))


@torch.no_grad()
def test_the_output_is_diffusers(model: Denoiser, folder: Path) -> None:
    net, text = SD3Transformer2DModel.from_pretrained(folder / "transformer"), texts(2)
    assert (model.shape, model.classes, model.conditions.none) == ((4, 8, 8), None, True)
    assert text_sizes(model.net.config) == model.kind.text_sizes(model.net) == (10, 12, False, False)
    x, sigma = torch.randn(2, 4, 8, 8), torch.tensor([0.25, 4.0])  # t = 0.2 and 0.8
    column = sigma.reshape(-1, 1, 1, 1)
    wanted = net(x / (1 + column), text.embeddings, text.pooled, torch.tensor([200.0, 800.0])).sample
    torch.testing.assert_close(model.raw(x, sigma, text), wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(model(x, sigma, text), (x - column * wanted) / (1 + column), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_both_parts_of_a_text_count(model: Denoiser) -> None:
    x, sigma, text = torch.randn(1, 4, 8, 8), torch.tensor([2.5]), texts(1)
    assert text.embeddings is not None and text.pooled is not None
    found = model(x, sigma, text)
    others = (
        Condition(embeddings=text.embeddings.flip(2), pooled=text.pooled),
        Condition(embeddings=text.embeddings, pooled=-text.pooled),
    )
    for other in others:
        assert not torch.allclose(model(x, sigma, other), found, atol=1e-6)


def test_features_are_of_the_image_alone_and_have_gradients(model: Denoiser) -> None:
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    maps = model.encode(x, per_image(1.0, x), full=True)
    assert [tuple(m.shape[1:]) for m in maps] == [(8, 4, 4), (8, 4, 4)]
    (gradient,) = torch.autograd.grad(sum(m.square().mean() for m in maps), x)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


@torch.no_grad()
def test_the_bottleneck_is_the_last_map_and_can_be_moved(model: Denoiser) -> None:
    x, sigma = torch.randn(2, 4, 8, 8), torch.tensor([1.0, 2.0])
    blank = Condition(embeddings=torch.zeros(2, 1, 10), pooled=torch.zeros(2, 12))
    before, seen = model(x, sigma, blank), list[Tensor]()
    with model.hook_bottleneck(seen.append):
        model(x, sigma, blank)
    torch.testing.assert_close(model.encode(x, sigma)[-1], seen[0], rtol=0, atol=1e-6)
    with model.hook_bottleneck(lambda features: features):
        assert torch.equal(model(x, sigma, blank), before)
    with model.hook_bottleneck(lambda features: features + features.flip(1)):
        assert (model(x, sigma, blank) - before).abs().max() > 1e-3
    names = dict(model.named_modules())
    assert all(name in names for name in model.output_layers())


@torch.no_grad()
def test_it_survives_saving(model: Denoiser, folder: Path, tmp_path: Path) -> None:
    stage = load_autoencoder(folder)
    assert stage.facts() == {"scaling_factor": 0.13025, "shift_factor": 0.06}
    save_denoiser(model, tmp_path / "saved", half=False, autoencoder=stage)
    back, text = load_denoiser(tmp_path / "saved"), texts(2)
    x, sigma = torch.randn(2, 4, 8, 8), torch.tensor([0.5, 5.0])
    assert torch.equal(back(x, sigma, text), model(x, sigma, text))
    assert load_autoencoder(tmp_path / "saved").facts() == stage.facts()
    assert isinstance(SD3Transformer2DModel.from_pretrained(tmp_path / "saved" / "transformer"), SD3Transformer2DModel)


def test_a_call_without_a_text_is_refused(model: Denoiser) -> None:
    x = torch.randn(1, 4, 8, 8)
    with pytest.raises(GsdError, match="without a text"):
        model(x, per_image(1.0, x))
    with pytest.raises(GsdError, match="vectors of 10 numbers, the model takes 10 and 12"):
        model.give_prompts(Condition(embeddings=torch.zeros(1, 7, 10)))


@torch.no_grad()
def test_it_takes_adapters(model: Denoiser) -> None:
    pytest.importorskip("peft")
    x, sigma, text = torch.randn(2, 4, 8, 8), torch.tensor([0.5, 5.0]), texts(2)
    adapted = adapt(model, 2, 0, "fake")
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.normal_()
    assert not torch.allclose(adapted(x, sigma, text), model(x, sigma, text), atol=1e-3)
    torch.testing.assert_close(merge(adapted)(x, sigma, text), adapted(x, sigma, text), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"in_channels": 9}, {"in_channels": "4"}, {"sample_size": None}, {"sample_size": 10**6}, {"patch_size": 3},
        {"pos_embed_max_size": 3}, {"joint_attention_dim": -8}, {"pooled_projection_dim": [8]}, {"num_layers": 0},
        {"caption_projection_dim": "8"}, {"attention_head_dim": 2**60},
    ],
    ids=str,
)  # fmt: skip
def test_damaged_configs_are_refused(changes: dict[str, Any], folder: Path) -> None:
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(GsdError) as caught:
        read_teacher_config(folder)
    assert caught.value.code == 3 and caught.value.hint
