"""FLUX's transformer, small, with random weights: schnell, and dev with its guidance embedding."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel

from gsd_cli.base.errors import GsdError
from gsd_cli.catalogue.model_facts import ModelFacts
from gsd_cli.core.models import flux
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.diffusers_folder import build_denoiser, load_autoencoder, load_denoiser, save_denoiser
from gsd_cli.core.models.flow_schedule import FlowSchedule
from gsd_cli.core.models.flux_config import require_usable, text_sizes
from gsd_cli.core.models.teacher_config import read_teacher_config
from tests.support import teachers

each_kind = pytest.mark.parametrize("kind", teachers.FLUX_KINDS)


def texts(count: int) -> Condition:
    random = torch.Generator().manual_seed(3)
    return Condition(
        embeddings=torch.randn(count, 7, 10, generator=random), pooled=torch.randn(count, 8, generator=random)
    )


@pytest.fixture
def folder(tmp_path: Path, kind: str) -> Path:
    return teachers.text_pipeline(tmp_path / "teacher", kind)


@pytest.fixture
def model(folder: Path) -> Denoiser:
    return build_denoiser(read_teacher_config(folder))


@each_kind
@torch.no_grad()
def test_the_output_is_diffusers(kind: str, model: Denoiser, folder: Path) -> None:
    net, text = FluxTransformer2DModel.from_pretrained(folder / "transformer"), texts(2)
    assert (model.shape, model.classes, model.conditions.none) == ((4, 8, 8), None, True)
    assert text_sizes(model.net.config) == model.kind.text_sizes(model.net) == (10, 8, False, False)
    x, sigma = torch.randn(2, 4, 8, 8), torch.tensor([0.25, 4.0])  # t = 0.2 and 0.8
    column = sigma.reshape(-1, 1, 1, 1)
    tokens = net(
        hidden_states=FluxPipeline._pack_latents(x / (1 + column), 2, 4, 8, 8), timestep=torch.tensor([0.2, 0.8]),
        encoder_hidden_states=text.embeddings, pooled_projections=text.pooled, txt_ids=torch.zeros(7, 3),
        img_ids=FluxPipeline._prepare_latent_image_ids(2, 4, 4, "cpu", torch.float32),
        guidance=torch.full((2,), 3.5) if kind == "FLUX-dev" else None,
    ).sample  # fmt: skip
    wanted = FluxPipeline._unpack_latents(tokens, 16, 16, 2)
    torch.testing.assert_close(model.raw(x, sigma, text), wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(model(x, sigma, text), (x - column * wanted) / (1 + column), rtol=1e-5, atol=1e-5)


def test_packing_is_the_pipeline_s() -> None:
    x = torch.randn(2, 4, 8, 8)
    packed = flux.pack(x)
    assert torch.equal(packed, FluxPipeline._pack_latents(x, 2, 4, 8, 8))
    assert torch.equal(flux.unpack(packed, 4), x)


@pytest.mark.parametrize("kind", ["FLUX-dev"])
@torch.no_grad()
def test_texts_and_guidance_count(model: Denoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    x, sigma, text = torch.randn(1, 4, 8, 8), torch.tensor([2.5]), texts(1)
    assert text.embeddings is not None and text.pooled is not None
    found = model(x, sigma, text)
    others = (
        Condition(embeddings=text.embeddings.flip(2), pooled=text.pooled),
        Condition(embeddings=text.embeddings, pooled=-text.pooled),
    )
    for other in others:
        assert not torch.allclose(model(x, sigma, other), found, atol=1e-6)
    monkeypatch.setattr(flux, "GUIDANCE", 1.0)
    assert not torch.allclose(model(x, sigma, text), found, atol=1e-6)


def test_a_network_without_common_blocks_has_output_layers() -> None:
    model = Denoiser(teachers.flux(num_single_layers=0), FlowSchedule(), "flow_prediction", kind=flux.FLUX)
    assert model.output_layers()[:2] == ("net.transformer_blocks.1.attn", "net.transformer_blocks.1.ff")
    assert set(model.output_layers()) <= dict(model.named_modules()).keys()


@each_kind
@torch.no_grad()
def test_it_survives_saving(
    model: Denoiser, folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    stage = load_autoencoder(folder)
    assert stage.facts() == {"scaling_factor": 0.13025, "shift_factor": 0.06}
    with caplog.at_level(logging.WARNING):
        save_denoiser(model, tmp_path / "saved", half=False, autoencoder=stage)
        back, text = load_denoiser(tmp_path / "saved"), texts(2)
    assert not caplog.records and capfd.readouterr() == ("", "")  # diffusers does not know the key with the side
    x, sigma = torch.randn(2, 4, 8, 8), torch.tensor([0.5, 5.0])
    assert torch.equal(back(x, sigma, text), model(x, sigma, text))
    assert back.schedule == model.schedule
    opened = FluxTransformer2DModel.from_pretrained(tmp_path / "saved" / "transformer")
    assert isinstance(opened, FluxTransformer2DModel)


@pytest.mark.parametrize("kind", ["FLUX"])
def test_its_images_have_the_size_that_its_config_names_or_its_pipeline_s(folder: Path, tmp_path: Path) -> None:
    path = folder / "transformer" / "config.json"
    config = json.loads(path.read_text())
    assert ModelFacts(folder, {}, config).latent_shape == (4, 8, 8)
    del config["sample_size"]
    assert ModelFacts(folder, {}, config).latent_shape == (4, 128, 128)
    require_usable(folder, config)
    path.write_text(json.dumps(config))
    assert build_denoiser(read_teacher_config(folder)).shape == (4, 128, 128)


@pytest.mark.parametrize("kind", ["FLUX"])
def test_a_call_without_a_text_is_refused(model: Denoiser) -> None:
    x = torch.randn(1, 4, 8, 8)
    with pytest.raises(GsdError, match="without a text"):
        model(x, per_image(1.0, x))
    with pytest.raises(GsdError, match="vectors of 10 numbers, the model takes 10 and 8"):
        model.give_prompts(Condition(embeddings=torch.zeros(1, 7, 10)))


@pytest.mark.parametrize("kind", ["FLUX"])
@pytest.mark.parametrize(
    "changes",
    [
        {"in_channels": 18}, {"in_channels": "64"}, {"in_channels": 0}, {"in_channels": 384, "out_channels": 64},
        {"out_channels": 32}, {"patch_size": 2}, {"sample_size": 9}, {"sample_size": 10**6}, {"sample_size": "8"},
        {"joint_attention_dim": -8}, {"pooled_projection_dim": [8]}, {"num_layers": 0}, {"num_single_layers": -1},
        {"attention_head_dim": 2**60}, {"axes_dims_rope": [2, 2]}, {"axes_dims_rope": [1, 3, 4]},
        {"axes_dims_rope": [2, 2, 2]}, {"axes_dims_rope": "224"}, {"guidance_embeds": "yes"},
    ],
    ids=str,
)  # fmt: skip
def test_damaged_configs_are_refused(changes: dict[str, Any], folder: Path) -> None:
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(GsdError) as caught:
        read_teacher_config(folder)
    assert caught.value.code == 3 and caught.value.hint
