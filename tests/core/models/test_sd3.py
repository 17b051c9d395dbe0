"""Stable Diffusion 3's transformer, small, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SD3Transformer2DModel

from gsd_cli.base.errors import GsdError
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
