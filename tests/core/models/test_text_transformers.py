"""What holds for every transformer that is conditioned on texts: Stable Diffusion 3, FLUX and SANA, small."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel, SanaTransformer2DModel, SD3Transformer2DModel
from torch import Tensor

from gsd_cli.compute.device import autocast, cast_for_autocast
from gsd_cli.core.models.adapters import adapt, merge, save_adapters
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.diffusers_folder import build_denoiser
from gsd_cli.core.models.teacher_config import read_teacher_config
from tests.support import teachers


@dataclass(frozen=True)
class Kind:
    """Its class in diffusers, the sizes of a token's vector and of a whole text's, whether tokens are masked, and the
    maps: of the patches, then of some blocks."""

    theirs: Any
    token: int
    whole: int | None
    masked: bool
    maps: list[tuple[int, ...]]

    def texts(self, count: int, tokens: int) -> Condition:
        """Texts of this kind, of random vectors."""
        random = torch.Generator().manual_seed(3)
        vectors = torch.randn(count, tokens, self.token, generator=random)
        whole = None if self.whole is None else torch.randn(count, self.whole, generator=random)
        return Condition(embeddings=vectors, pooled=whole, mask=torch.ones(count, tokens) if self.masked else None)

    def blank(self, count: int) -> Condition:
        """The text that stands for none: one token of zeros."""
        found = self.texts(count, 1)
        assert found.embeddings is not None
        pooled = None if found.pooled is None else torch.zeros_like(found.pooled)
        return Condition(embeddings=torch.zeros_like(found.embeddings), pooled=pooled, mask=found.mask)


FLUX = Kind(FluxTransformer2DModel, 10, 8, masked=False, maps=[(16, 4, 4)] * 4)  # three of five blocks
KINDS = {
    "SD3": Kind(SD3Transformer2DModel, 10, 12, masked=False, maps=[(8, 4, 4)] * 2),
    "FLUX": FLUX,
    "FLUX-dev": FLUX,
    "SANA": Kind(SanaTransformer2DModel, 8, None, masked=True, maps=[(8, 8, 8)] * 3),  # two of three blocks
}


@pytest.fixture(params=KINDS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def kind(name: str) -> Kind:
    return KINDS[name]


@pytest.fixture
def folder(name: str, tmp_path: Path) -> Path:
    return teachers.text_pipeline(tmp_path / "teacher", name)


@pytest.fixture
def model(folder: Path) -> Denoiser:
    return build_denoiser(read_teacher_config(folder))


def test_features_are_of_the_image_alone_and_have_gradients(model: Denoiser, kind: Kind) -> None:
    x = torch.randn(2, 4, 8, 8, requires_grad=True)
    maps = model.encode(x, per_image(1.0, x), full=True)
    assert [tuple(m.shape[1:]) for m in maps] == kind.maps
    (gradient,) = torch.autograd.grad(sum(m.square().mean() for m in maps), x)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0


@torch.no_grad()
def test_the_bottleneck_is_the_last_map_and_can_be_moved(model: Denoiser, kind: Kind) -> None:
    x, sigma, blank = torch.randn(2, 4, 8, 8), torch.tensor([1.0, 2.0]), kind.blank(2)
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
def test_adapters_on_a_base_in_bf16_give_the_numbers_of_autocast(model: Denoiser, kind: Kind) -> None:
    pytest.importorskip("peft")
    x, sigma, text = torch.randn(2, 4, 8, 8), torch.tensor([0.5, 5.0]), kind.texts(2, 7)
    low = cast_for_autocast(model, "bf16")
    plain, ours = adapt(model, 2, 0, "fake"), adapt(model, 2, 0, "fake", low)
    for parameter in (p for adapted in (plain, ours) for p in adapted.parameters() if p.requires_grad):
        parameter += 0.1
    with autocast(x.device, "bf16"):
        expected = plain(x, sigma, text)
        assert torch.equal(ours(x, sigma, text), expected)
        assert not torch.allclose(low(x, sigma, text), expected, atol=1e-3)


@torch.no_grad()
def test_diffusers_reads_its_adapters(model: Denoiser, kind: Kind, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    x, sigma, text = torch.randn(2, 4, 8, 8), torch.tensor([0.5, 5.0]), kind.texts(2, 7)
    adapted = adapt(model, 2, 0, "fake")
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.normal_()
    assert not torch.allclose(adapted(x, sigma, text), model(x, sigma, text), atol=1e-3)
    torch.testing.assert_close(merge(adapted)(x, sigma, text), adapted(x, sigma, text), rtol=1e-3, atol=1e-4)
    save_adapters(adapted, tmp_path / "a.safetensors", half=False)
    theirs = kind.theirs.from_pretrained(folder / "transformer")
    theirs.load_lora_adapter(tmp_path / "a.safetensors", prefix="transformer")
    theirs.register_to_config(sample_size=8)  # FLUX's class forgets it
    other = Denoiser(theirs, model.schedule, "flow_prediction", kind=model.kind)
    torch.testing.assert_close(other(x, sigma, text), adapted(x, sigma, text), rtol=1e-4, atol=1e-5)
