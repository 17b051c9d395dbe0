"""SANA's transformer and autoencoder, small, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderDC, SanaTransformer2DModel
from safetensors.torch import load_file, save_file

from gsd_cli.base.errors import GsdError
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.diffusers_folder import build_denoiser, load_autoencoder, load_denoiser, save_denoiser
from gsd_cli.core.models.flow_schedule import DPM_SOLVER, FlowSchedule
from gsd_cli.core.models.sana import SANA
from gsd_cli.core.models.sana_config import text_sizes
from gsd_cli.core.models.teacher_config import read_teacher_config
from gsd_cli.core.sampling.samplers import parse_sampler
from tests.support import teachers


def texts(count: int, tokens: int = 7) -> Condition:
    """Of the tokens, all but two count."""
    random = torch.Generator().manual_seed(3)
    mask = torch.ones(count, tokens)
    mask[:, -2:] = 0
    return Condition(embeddings=torch.randn(count, tokens, 8, generator=random), mask=mask)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return teachers.text_pipeline(tmp_path / "teacher", "SANA")


@pytest.fixture
def model(folder: Path) -> Denoiser:
    return build_denoiser(read_teacher_config(folder))


@torch.no_grad()
def test_the_output_is_diffusers(model: Denoiser, folder: Path) -> None:
    net, text = SanaTransformer2DModel.from_pretrained(folder / "transformer"), texts(2)
    assert (model.shape, model.classes, model.conditions.none) == ((4, 8, 8), None, True)
    assert text_sizes(model.net.config) == model.kind.text_sizes(model.net) == (8, None, False, True)
    x, sigma = torch.randn(2, 4, 8, 8), torch.tensor([0.25, 4.0])  # t = 0.2 and 0.8
    column = sigma.reshape(-1, 1, 1, 1)
    wanted = net(
        x / (1 + column), text.embeddings, torch.tensor([200.0, 800.0]), encoder_attention_mask=text.mask
    ).sample
    torch.testing.assert_close(model.raw(x, sigma, text), wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(model(x, sigma, text), (x - column * wanted) / (1 + column), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_masked_tokens_do_not_count(model: Denoiser) -> None:
    x, sigma, text = torch.randn(1, 4, 8, 8), torch.tensor([2.5]), texts(1)
    assert text.embeddings is not None and text.mask is not None
    found = model(x, sigma, text)
    cut = Condition(embeddings=text.embeddings[:, :5], mask=text.mask[:, :5])
    torch.testing.assert_close(model(x, sigma, cut), found, rtol=0, atol=1e-6)
    for other in (
        Condition(embeddings=text.embeddings, mask=torch.ones_like(text.mask)),
        Condition(embeddings=text.embeddings.flip(2), mask=text.mask),
    ):
        assert not torch.allclose(model(x, sigma, other), found, atol=1e-6)


@torch.no_grad()
def test_the_time_is_scaled_and_a_variance_left_out() -> None:
    net = teachers.sana(out_channels=8, timestep_scale=0.001)
    model, text = Denoiser(net, FlowSchedule(), "flow_prediction", kind=SANA), texts(2)
    x, sigma = torch.randn(2, 4, 8, 8), torch.tensor([0.25, 4.0])
    noisy, time = x / (1 + sigma.reshape(-1, 1, 1, 1)), torch.tensor([0.2, 0.8])
    wanted = net(noisy, text.embeddings, time, encoder_attention_mask=text.mask).sample
    found, rest = model.raw_and_variance(x, sigma, text)
    assert rest is not None
    torch.testing.assert_close(torch.cat([found, rest], 1), wanted, rtol=0, atol=1e-6)
    assert [tuple(m.shape[1:]) for m in model.encode(x, sigma)] == [(8, 8, 8)] * 2


@torch.no_grad()
def test_it_survives_saving(model: Denoiser, folder: Path, tmp_path: Path) -> None:
    stage = load_autoencoder(folder)
    save_denoiser(model, tmp_path / "saved", half=False, autoencoder=stage)
    back, text = load_denoiser(tmp_path / "saved"), texts(2)
    x, sigma = torch.randn(2, 4, 8, 8), torch.tensor([0.5, 5.0])
    assert torch.equal(back(x, sigma, text), model(x, sigma, text))
    assert back.schedule == model.schedule and isinstance(back.schedule, FlowSchedule)
    assert (back.schedule.solver, back.schedule.shift) == (DPM_SOLVER, 4.0)
    assert load_autoencoder(tmp_path / "saved").facts() == stage.facts() == {"scaling_factor": 0.41407}
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    assert index["_class_name"] == "SanaPipeline"
    assert (index["vae"], index["scheduler"][1]) == (["diffusers", "AutoencoderDC"], DPM_SOLVER)


@torch.no_grad()
def test_its_autoencoder_is_diffusers(folder: Path) -> None:
    stage, theirs = load_autoencoder(folder), AutoencoderDC.from_pretrained(folder / "vae")
    images = torch.randn(2, 3, 16, 16).clamp(-1, 1)
    latents = stage.encode(images)
    torch.testing.assert_close(latents, theirs.encode(images).latent * 0.41407, rtol=0, atol=1e-6)
    torch.testing.assert_close(stage.decode(latents), theirs.decode(latents / 0.41407).sample, rtol=0, atol=1e-6)
    assert stage.image_shape((4, 8, 8)) == (3, 16, 16)


def test_its_own_sampler_takes_twenty_steps(model: Denoiser) -> None:
    assert parse_sampler("msa").calls(model) == 20 and parse_sampler("msa-5").calls(model) == 5


@pytest.mark.parametrize("damage", ["class", "scale", "shift", "weights", "shapes"])
def test_damaged_autoencoders_are_refused(damage: str, folder: Path) -> None:
    path = folder / "vae" / "config.json"
    changes: dict[str, Any] = {
        "class": {"_class_name": "AutoencoderTiny"}, "scale": {"scaling_factor": -1}, "shift": {"shift_factor": "0"},
        "shapes": {"encoder_block_out_channels": [8, 32]},
    }.get(damage, {})  # fmt: skip
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    if damage == "weights":
        (weights,) = (folder / "vae").glob("*.safetensors")
        tensors = load_file(weights)
        tensors.popitem()
        save_file(tensors, weights)
    with pytest.raises(GsdError) as caught:
        load_autoencoder(folder)
    assert caught.value.code == 3 and caught.value.hint


def test_a_call_without_a_text_is_refused(model: Denoiser) -> None:
    x = torch.randn(1, 4, 8, 8)
    with pytest.raises(GsdError, match="without a text"):
        model(x, per_image(1.0, x))
    with pytest.raises(GsdError, match=r"vectors of 8 numbers, the model takes 8 \(masked\)"):
        model.give_prompts(Condition(embeddings=torch.zeros(1, 7, 8)))


@pytest.mark.parametrize(
    "changes",
    [
        {"in_channels": 9}, {"in_channels": "4"}, {"out_channels": 5}, {"sample_size": None}, {"sample_size": 10**6},
        {"patch_size": 3}, {"caption_channels": -8}, {"cross_attention_dim": None}, {"cross_attention_dim": 16},
        {"num_layers": 0}, {"num_attention_heads": "2"}, {"attention_head_dim": 2**60}, {"guidance_embeds": True},
        {"timestep_scale": 0}, {"timestep_scale": "1"}, {"mlp_ratio": None},
    ],
    ids=str,
)  # fmt: skip
def test_damaged_configs_are_refused(changes: dict[str, Any], folder: Path) -> None:
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(GsdError) as caught:
        read_teacher_config(folder)
    assert caught.value.code == 3 and caught.value.hint
