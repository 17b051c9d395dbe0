"""Networks in pieces, in a group of one process: names, shapes and values. Several: distillation/test_sharded.py."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from diffusers import SD3Transformer2DModel, UNet2DConditionModel

from gsd_cli.compute.sharding import Mould, cut_like, gather, is_sharded, local, shard, total_norm
from gsd_cli.core.models.adapters import adapt, merge
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.condition import Condition, every_class
from gsd_cli.core.models.ddp_unet import DDP_UNET, DdpUNet
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.models.dit import DIT
from gsd_cli.core.models.edm_kind import SONG_UNET
from gsd_cli.core.models.flux import FLUX
from gsd_cli.core.models.sana import SANA
from gsd_cli.core.models.sd3 import SD3
from gsd_cli.core.models.unet2d_condition import UNET2D_CONDITION
from gsd_cli.core.training.averaging import update_average
from gsd_cli.core.training.checkpoint import load_module, load_optimizer, module_tensors, optimizer_tensors
from gsd_cli.core.training.descent import descend
from tests.support import teachers
from tests.support.edm_files import SMALL, random_net

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def pieces(toy_teacher: Denoiser) -> Denoiser:
    """The toy teacher, trainable, sharded."""
    cut = copy.deepcopy(toy_teacher).requires_grad_(True)
    shard(cut, cut.net, CPU, "encode")
    return cut


def loss(model: Denoiser) -> torch.Tensor:
    x = torch.linspace(-1, 1, 512).reshape(2, 1, 16, 16)
    return model(x, per_image(1.0, x)).square().mean()


def test_each_block_is_a_unit(pieces: Denoiser) -> None:
    units = {name for name, module in pieces.named_modules() if type(module).__name__.startswith("FSDP")}
    blocks = {"net.mid_block", *(f"net.{side}_blocks.{k}" for side in ("down", "up") for k in range(2))}
    assert units == {"", *blocks}
    assert is_sharded(pieces)
    assert not is_sharded(torch.nn.Linear(1, 1))


KINDS = {
    "text": (UNET2D_CONDITION, lambda: UNet2DConditionModel(**teachers.TEXT)),
    "text and size": (UNET2D_CONDITION, lambda: UNet2DConditionModel(**teachers.TEXT_XL)),
    "DiT": (DIT, teachers.dit),
    "SD3": (SD3, lambda: SD3Transformer2DModel(**teachers.TEXT_3)),
    "FLUX": (FLUX, lambda: teachers.flux(guidance_embeds=True)),
    "SANA": (SANA, teachers.sana),
    "EDM": (SONG_UNET, lambda: random_net("SongUNet", SMALL)),
    "denoising_diffusion_pytorch": (DDP_UNET, lambda: DdpUNet(teachers.DDP)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_network_can_be_cut(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every block cut into its own blocks, as a large one is."""
    monkeypatch.setattr("gsd_cli.compute.sharding.LARGE", 0)
    record, build = KINDS[kind]
    net = build().float().eval()
    whole = Denoiser(net, BetaSchedule.linear(), kind=record).requires_grad_(True)
    cut = copy.deepcopy(whole)
    shard(cut, cut.net, CPU, "encode", apart=record.apart(cut.net))
    x, sigma = torch.randn(2, *whole.shape), torch.ones(2)
    sizes = record.text_sizes(net)
    condition = every_class(whole.classes).first(2)
    if sizes is not None:
        ids = torch.full((2, 6), 8.0) if sizes.image else None
        pooled = torch.randn(2, sizes.whole) if sizes.whole else None
        condition = Condition(embeddings=torch.randn(2, 3, sizes.token), pooled=pooled, time_ids=ids)
    for model in (whole, cut):
        model(x, sigma, condition).square().mean().backward()
    assert torch.equal(*(m(x, sigma, condition) for m in (whole, cut)))
    for maps in zip(*(m.encode(x, sigma, full=True) for m in (whole, cut)), strict=True):
        assert torch.equal(*maps)
    for one, two in zip(whole.parameters(), cut.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, gather(two.grad))


def test_outputs_and_encoder_maps_are_the_same(toy_teacher: Denoiser, pieces: Denoiser) -> None:
    x = torch.linspace(-1, 1, 512).reshape(2, 1, 16, 16)
    for whole, cut in zip(*(m.encode(x, per_image(1.0, x), full=True) for m in (toy_teacher, pieces)), strict=True):
        assert torch.equal(whole, cut)
    assert torch.equal(loss(toy_teacher), loss(pieces))


def test_the_state_is_whole_and_goes_to_either_kind(toy_teacher: Denoiser, pieces: Denoiser) -> None:
    whole = toy_teacher.requires_grad_(True)
    saved = []
    for model in (whole, pieces):
        optimizer = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
        loss(model).backward()
        assert descend(model, optimizer, clip=0.1).skipped == 0
        saved.append(module_tensors("n", model) | optimizer_tensors("o", optimizer))
        with torch.no_grad():
            for parameter in model.parameters():
                local(parameter).zero_()
        load_module("n", model, saved[0])
        load_optimizer("o", optimizer, saved[0])
        again = module_tensors("n", model) | optimizer_tensors("o", optimizer)
        assert all(torch.equal(value, again[name]) for name, value in saved[0].items())
    assert list(saved[0]) == list(saved[1])
    for name, value in saved[0].items():
        torch.testing.assert_close(saved[1][name], value)


def test_a_step_that_is_not_finite_keeps_the_weights(pieces: Denoiser) -> None:
    optimizer, before = torch.optim.Adam(pieces.parameters(), 1e-3, fused=True), module_tensors("n", pieces)
    before = {name: value.clone() for name, value in before.items()}
    loss(pieces).backward()
    local(next(p.grad for p in pieces.parameters() if p.grad is not None)).fill_(float("inf"))
    assert descend(pieces, optimizer).skipped == 1
    assert all(torch.equal(before[name], value) for name, value in module_tensors("n", pieces).items())


def test_an_average_is_moved_and_cast_whole(toy_teacher: Denoiser, pieces: Denoiser) -> None:
    average = copy.deepcopy(toy_teacher).requires_grad_(False)
    with torch.no_grad():
        for parameter in average.parameters():
            parameter.zero_()
    mould = Mould(average)
    assert not any(value.numel() and value.device == CPU for value in mould._hollow.parameters())
    shard(average, average.net, CPU)
    update_average(average, pieces, torch.tensor(0.25), torch.zeros(()))
    whole = mould.cast(average, CPU)
    assert type(whole) is Denoiser and not is_sharded(whole)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(value, 0.25 * toy_teacher.state_dict()[name])
    assert torch.isfinite(loss(whole))


def test_adapters_alone_are_saved_and_a_whole_copy_can_be_merged(toy_teacher: Denoiser) -> None:
    pytest.importorskip("peft")
    adapted = adapt(toy_teacher, 4, 0, "test")
    mould, whole = Mould(adapted), copy.deepcopy(adapted)
    shard(adapted, adapted.net, CPU)
    saved = module_tensors("n", adapted)
    assert saved.keys() == module_tensors("n", whole).keys()
    changed = {name: value + 0.01 for name, value in saved.items()}
    load_module("n", adapted, changed)
    load_module("n", whole, changed)
    merged = merge(mould.cast(adapted, CPU))
    for one, two in zip(merge(whole).parameters(), merged.parameters(), strict=True):
        assert torch.equal(one, two)


def test_a_tensor_is_cut_and_gathered(pieces: Denoiser) -> None:
    like = pieces.net.conv_in.weight
    value = torch.randn(like.shape)
    cut = cut_like(value, like)
    assert is_sharded(pieces) and torch.equal(gather(cut), value)
    assert cut_like(value, value) is value and gather(value) is value and local(value) is value
    assert total_norm([cut]) == pytest.approx(value.norm().item())
