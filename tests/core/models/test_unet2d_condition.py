"""Text-conditional networks: Stable Diffusion's and SDXL's, small, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from gsd_cli.base.errors import GsdError
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.diffusers_folder import build_denoiser, load_autoencoder, load_denoiser, save_denoiser
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.core.models.teacher_config import read_teacher_config
from gsd_cli.core.models.unet2d_condition_config import text_sizes
from tests.support import teachers

KINDS = ("SD", "SDXL")
each_kind = pytest.mark.parametrize("kind", KINDS)


def texts(kind: str, count: int, tokens: int = 7) -> Condition:
    random = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(*shape, generator=random)  # noqa: E731
    embeddings = draw(count, tokens, 8)
    if kind == "SD":
        return Condition(embeddings=embeddings)
    ids = torch.tensor([[64.0, 64, 0, 0, 64, 64]]).repeat(count, 1)
    return Condition(embeddings=embeddings, pooled=draw(count, 6), time_ids=ids)


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return teachers.text_pipeline(tmp_path / "teacher", request.getfixturevalue("kind"))


def load(folder: Path) -> Denoiser:
    return build_denoiser(read_teacher_config(folder))


@each_kind
@torch.no_grad()
def test_the_output_is_diffusers(kind: str, folder: Path) -> None:
    # in float64: in float32 some processors round by where the weights are in memory
    model, net = load(folder).double(), UNet2DConditionModel.from_pretrained(folder / "unet").double()
    text = texts(kind, 2).to("cpu", torch.float64)
    added = None if kind == "SD" else {"text_embeds": text.pooled, "time_ids": text.time_ids}
    assert (model.shape, model.classes, model.conditions.none) == ((4, 8, 8), None, True)
    x, sigma = torch.randn(2, 4, 8, 8).double(), model.schedule.sigmas[[100, 800]].double()
    scale = (1 + sigma**2).sqrt().reshape(-1, 1, 1, 1)
    wanted = net(x / scale, torch.tensor([100.0, 800.0]), text.embeddings, added_cond_kwargs=added).sample
    torch.testing.assert_close(model.raw(x, sigma, text), wanted, rtol=0, atol=1e-6)
    clean = x - sigma.reshape(-1, 1, 1, 1) * wanted
    torch.testing.assert_close(model(x, sigma, text), clean, rtol=1e-5, atol=1e-5)


@each_kind
@torch.no_grad()
def test_every_part_of_a_text_counts(kind: str, folder: Path) -> None:
    model, text = load(folder), texts(kind, 1)
    x, sigma = torch.randn(1, 4, 8, 8), torch.tensor([2.5])
    found = model(x, sigma, text)
    changes: dict[str, Any] = {"embeddings": text.embeddings.flip(2)}  # type: ignore[union-attr]
    if kind == "SDXL":
        changes |= {"pooled": -text.pooled, "time_ids": text.time_ids + 30}  # type: ignore[operator]
    for name, value in changes.items():
        parts = {"embeddings": text.embeddings, "pooled": text.pooled, "time_ids": text.time_ids, name: value}
        assert not torch.allclose(model(x, sigma, Condition(**parts)), found, atol=1e-6), name
    # of masked tokens nothing is seen
    half = torch.tensor([[1, 1, 1, 0, 0, 0, 0]])
    parts = {"pooled": text.pooled, "time_ids": text.time_ids}
    masked = model(x, sigma, Condition(embeddings=text.embeddings, mask=half, **parts))
    short = model(x, sigma, Condition(embeddings=text.embeddings[:, :3], **parts))  # type: ignore[index]
    torch.testing.assert_close(masked, short, rtol=1e-4, atol=1e-5)


@each_kind
@torch.no_grad()
def test_rows_of_a_batch_are_single_calls(kind: str, folder: Path) -> None:
    model, text = load(folder), texts(kind, 3)
    x, sigma = torch.randn(3, 4, 8, 8), torch.tensor([0.3, 2.5, 10.0])
    together = model(x, sigma, text)
    for k in range(3):
        own = slice(k, k + 1)
        torch.testing.assert_close(together[own], model(x[own], sigma[own], text.rows(own)), rtol=1e-4, atol=1e-4)


@each_kind
def test_amplification_is_the_change_of_the_estimate(kind: str, folder: Path) -> None:
    model = load(folder)
    sigma = torch.tensor([0.05, 1.0, 12.0])
    x = torch.randn(3, 4, 8, 8, dtype=torch.float64)
    ones, zeros = torch.ones_like(x), torch.zeros_like(x)
    change = (model.clean(ones, x, sigma) - model.clean(zeros, x, sigma)).mean((1, 2, 3))
    torch.testing.assert_close(model.amplification(sigma).double().abs(), change.abs(), rtol=1e-5, atol=1e-6)


@each_kind
def test_features_are_of_the_image_alone_and_have_gradients(kind: str, folder: Path) -> None:
    model = load(folder)
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    maps = model.encode(x, per_image(1.0, x), full=True)
    assert [tuple(m.shape[1:]) for m in maps] == [(8, 8, 8), (8, 4, 4), (16, 4, 4), (16, 4, 4)]
    (gradient,) = torch.autograd.grad(sum(m.square().mean() for m in maps), x)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0
    # the bottleneck is the last map, and adding to it changes the image
    seen: list[Tensor] = []
    handle = model.hook_bottleneck(seen.append)
    with torch.no_grad():
        last = model.encode(x, per_image(1.0, x))[-1]
        model(x, per_image(1.0, x), texts(kind, 2))
    handle.remove()
    assert torch.equal(seen[0], last) and seen[1].shape == last.shape
    names = dict(model.named_modules())
    assert all(name in names for name in model.output_layers())


@each_kind
@torch.no_grad()
def test_a_blank_text_is_a_call_with_zeros(kind: str, folder: Path) -> None:
    """The features are those that a call with one token of zeros passes through."""
    model = load(folder)
    assert text_sizes(model.net.config) == ((8, 6, True, False) if kind == "SDXL" else (8, None, False, False))
    x, sigma = torch.randn(2, 4, 8, 8), torch.tensor([1.0, 2.0])
    blank = Condition(embeddings=torch.zeros(2, 1, 8))
    if kind == "SDXL":
        ids = torch.tensor([[64.0, 64, 0, 0, 64, 64]]).repeat(2, 1)
        blank = Condition(embeddings=torch.zeros(2, 1, 8), pooled=torch.zeros(2, 6), time_ids=ids)
    seen: list[Tensor] = []
    handle = model.hook_bottleneck(seen.append)
    model(x, sigma, blank)
    handle.remove()
    torch.testing.assert_close(model.encode(x, sigma)[-1], seen[0], rtol=0, atol=1e-6)


@each_kind
@torch.no_grad()
def test_it_survives_saving(kind: str, folder: Path, tmp_path: Path) -> None:
    model, stage = load(folder), load_autoencoder(folder)
    save_denoiser(model, tmp_path / "saved", half=False, autoencoder=stage)
    back, text = load_denoiser(tmp_path / "saved"), texts(kind, 2)
    x, sigma = torch.randn(2, 4, 8, 8), torch.tensor([0.5, 5.0])
    assert torch.equal(back(x, sigma, text), model(x, sigma, text))
    assert isinstance(UNet2DConditionModel.from_pretrained(tmp_path / "saved" / "unet"), UNet2DConditionModel)


def test_a_call_without_a_text_is_refused(tmp_path: Path) -> None:
    model = load(teachers.text_pipeline(tmp_path / "sd", "SD"))
    x = torch.randn(1, 4, 8, 8)
    with pytest.raises(GsdError, match="without a text") as caught:
        model(x, per_image(1.0, x))
    assert caught.value.code == 3


@each_kind
def test_a_teacher_needs_prompts(kind: str, folder: Path) -> None:
    with pytest.raises(GsdError, match="text-conditional teacher: it needs prompts") as caught:
        load_teacher(str(folder))
    assert caught.value.code == 3 and caught.value.hint


@pytest.mark.parametrize(
    "changes",
    [
        {"in_channels": 9}, {"in_channels": "4"}, {"sample_size": None}, {"sample_size": 10**6},
        {"class_embed_type": "timestep"}, {"num_class_embeds": 7}, {"time_cond_proj_dim": 256},
        {"addition_embed_type": "image"}, {"addition_embed_type": ["text_time"]}, {"encoder_hid_dim_type": "text_proj"},
        {"time_embedding_type": "fourier"}, {"down_block_types": 5}, {"down_block_types": ["SkipDownBlock2D"]},
        {"down_block_types": [["DownBlock2D"]]}, {"cross_attention_dim": [8, 8]}, {"cross_attention_dim": -8},
        {"cross_attention_dim": None}, {"projection_class_embeddings_input_dim": None},
        {"projection_class_embeddings_input_dim": 24}, {"addition_time_embed_dim": 2**40},
    ],
    ids=str,
)  # fmt: skip
def test_damaged_and_foreign_configs_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    folder = teachers.text_pipeline(tmp_path / "teacher", "SDXL")
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(GsdError) as caught:
        read_teacher_config(folder)
    assert caught.value.code == 3 and caught.value.hint
