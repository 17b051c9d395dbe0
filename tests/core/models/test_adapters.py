"""LoRA adapters: one base, networks of their own, and files that diffusers reads."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from torch import Tensor, nn

from gsd_cli.base.errors import GsdError
from gsd_cli.catalogue.run_layout import ADAPTERS
from gsd_cli.compute.device import autocast, cast_for_autocast
from gsd_cli.core.models.adapters import adapt, adapter_parameters, copy_trained, is_adapted, merge, save_adapters
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.dit import DIT
from gsd_cli.core.models.generator import Generator, load_model, save_generator
from gsd_cli.core.models.unet2d_condition import UNET2D_CONDITION
from gsd_cli.core.training.averaging import update_average
from gsd_cli.core.training.checkpoint import load_module, module_tensors
from tests.support import teachers

pytest.importorskip("peft")


def text_model() -> Denoiser:
    torch.manual_seed(0)
    model = Denoiser(UNet2DConditionModel(**teachers.TEXT).eval(), BetaSchedule.linear(), kind=UNET2D_CONDITION)
    model.give_prompts(Condition(embeddings=torch.randn(2, 5, 8)))
    return model


MODELS: dict[str, Any] = {
    "UNet2DModel": lambda: Denoiser(teachers.unet(teachers.SMALL), BetaSchedule.linear()),
    "NCSN++": lambda: Denoiser(teachers.unet(teachers.NCSNPP), BetaSchedule.linear()),
    "DiT": lambda: Denoiser(teachers.dit(), BetaSchedule.linear(), kind=DIT),
    "UNet2DConditionModel": text_model,
}
each_kind = pytest.mark.parametrize("kind", MODELS)


def call(model: Denoiser) -> Tensor:
    x = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(1))
    return model(x, per_image(0.7, x), model.conditions.first(2))


def train(model: Denoiser) -> None:
    """Move the adapters by one step of a loss."""
    adam = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 0.02)
    call(model).square().mean().backward()
    adam.step()


@each_kind
def test_an_adapted_network_starts_as_its_base_and_leaves_it(kind: str) -> None:
    base = MODELS[kind]()
    kept = copy.deepcopy(base.state_dict())
    adapted = adapt(base, 2, 0, "fake")
    assert is_adapted(adapted) and not is_adapted(base)
    with torch.no_grad():
        before = call(base)
        torch.testing.assert_close(call(adapted), before, rtol=0, atol=1e-6)
    train(adapted)
    with torch.no_grad():
        assert (call(adapted) - before).abs().max() > 1e-3
        assert torch.equal(call(base), before)
    assert all(torch.equal(value, kept[name]) for name, value in base.state_dict().items())
    trained = [p for p in adapted.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == adapter_parameters(base, 2) < sum(p.numel() for p in base.parameters())
    # no weight of the base is held twice
    own = {p.data_ptr() for p in base.parameters()}
    assert {p.data_ptr() for p in adapted.parameters() if not p.requires_grad} <= own


@each_kind
@torch.no_grad()
def test_merged_weights_are_the_same_function(kind: str) -> None:
    base = MODELS[kind]()
    adapted = adapt(base, 2, 0, "generator")
    with torch.enable_grad():
        train(adapted)
    wanted, plain = call(adapted), merge(adapted)
    torch.testing.assert_close(call(plain), wanted, rtol=1e-4, atol=1e-5)
    assert list(plain.state_dict()) == list(base.state_dict()) and is_adapted(adapted)
    assert torch.equal(call(adapted), wanted)


@each_kind
def test_a_base_in_bf16_gives_the_numbers_of_autocast(kind: str) -> None:
    """Estimates, gradients of the adapters and of the images; the matrices stay float32."""
    base = MODELS[kind]()
    found = []
    for low in (base, cast_for_autocast(base, "bf16")):
        adapted = adapt(base, 2, 0, "fake", low)
        assert {id(p) for p in adapted.parameters() if not p.requires_grad} <= {id(p) for p in low.parameters()}
        trained = [p for p in adapted.parameters() if p.requires_grad]
        with torch.no_grad():
            for parameter in trained:
                parameter += 0.1
        x = torch.randn(2, *base.shape, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
        with autocast(x.device, "bf16"):
            output = adapted(x, per_image(0.7, x), base.conditions.first(2))
        assert {p.dtype for p in trained} == {torch.float32}
        found.append([output, *torch.autograd.grad(output.float().square().sum(), [x, *trained])])
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))
    assert found[0][1].abs().sum() > 0


def test_they_depend_on_seed_and_stream() -> None:
    base = MODELS["UNet2DModel"]()

    def matrices(seed: int, stream: str) -> Tensor:
        state = torch.get_rng_state()
        found = adapt(base, 2, seed, stream)
        assert torch.equal(torch.get_rng_state(), state)
        return torch.cat([p.flatten() for p in found.parameters() if p.requires_grad])

    one = matrices(0, "fake")
    assert torch.equal(one, matrices(0, "fake"))
    assert not torch.equal(one, matrices(1, "fake")) and not torch.equal(one, matrices(0, "generator"))


def test_an_average_follows_the_adapters_alone() -> None:
    adapted = adapt(MODELS["UNet2DModel"](), 2, 0, "generator")
    average = copy_trained(adapted).requires_grad_(False)
    train(adapted)
    update_average(average, adapted, 0.25)
    for (name, mine), theirs in zip(average.state_dict().items(), adapted.state_dict().values(), strict=True):
        if "lora_B" in name:
            torch.testing.assert_close(mine, 0.25 * theirs)
        elif "lora" not in name:
            assert mine.data_ptr() == theirs.data_ptr()


def test_a_checkpoint_holds_the_adapters_alone() -> None:
    base = MODELS["UNet2DModel"]()
    adapted, other = adapt(base, 2, 0, "fake"), adapt(base, 2, 1, "fake")
    train(adapted)
    saved = module_tensors("fake", adapted)
    assert sum(value.numel() for value in saved.values()) == adapter_parameters(base, 2)
    load_module("fake", other, saved)
    with torch.no_grad():
        assert torch.equal(call(other), call(adapted))
    with pytest.raises(GsdError, match="not of the size or kind"):
        load_module("fake", adapt(base, 3, 0, "fake"), saved)
    with pytest.raises(GsdError, match="not of the size or kind"):
        load_module("fake", base, saved)


@torch.no_grad()
def test_diffusers_adds_them_to_the_teacher(tmp_path: Path) -> None:
    adapted = adapt(text_model(), 4, 0, "generator")
    with torch.enable_grad():
        train(adapted)
    save_adapters(adapted, tmp_path / "a.safetensors", half=False)
    theirs: Any = UNet2DConditionModel(**teachers.TEXT).eval()
    theirs.load_state_dict(text_model().net.state_dict())
    theirs.load_lora_adapter(load_file(tmp_path / "a.safetensors"), prefix="unet")
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([3.0, 500.0])
    condition = adapted.conditions
    torch.testing.assert_close(
        theirs(x, t, condition.embeddings).sample,
        UNET2D_CONDITION.call(adapted.net, x, t, condition),
        rtol=0, atol=1e-6,
    )  # fmt: skip
    plain = UNet2DConditionModel(**teachers.TEXT).eval()
    plain.load_state_dict(text_model().net.state_dict())
    assert (theirs(x, t, condition.embeddings).sample - plain(x, t, condition.embeddings).sample).abs().max() > 1e-3


@torch.no_grad()
def test_a_generator_folder_is_a_whole_network(tmp_path: Path) -> None:
    adapted = adapt(MODELS["UNet2DModel"](), 2, 0, "generator")
    with torch.enable_grad():
        train(adapted)
    generator = Generator(adapted, 2.5)
    folder = tmp_path / "generator"
    save_generator(generator, folder, {"teacher": "t"}, "# card\n", half=False)
    assert (folder / ADAPTERS).exists()
    z = torch.randn(2, *generator.latent_shape)
    read = load_model(str(folder)).generator
    torch.testing.assert_close(read(z), generator(z), rtol=1e-4, atol=1e-5)
    assert not is_adapted(read)


def test_what_gets_no_adapter() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.narrow, self.wide = nn.Linear(3, 3), nn.Linear(30, 30)
            self.apart, self.norm = nn.Conv2d(8, 8, 3, groups=8), nn.GroupNorm(1, 8)

    model = MODELS["UNet2DModel"]()
    model.net = Net()
    assert adapter_parameters(model, 2) == 2 * 60
    with pytest.raises(GsdError, match="as large as the teacher's own layers") as caught:
        adapt(model, 15, 0, "fake")
    assert caught.value.code == 2
