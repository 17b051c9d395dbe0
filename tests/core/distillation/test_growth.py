"""A grown student is its teacher until it is trained, and then more than its teacher could be."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.compute.random import latents
from gsd_cli.core.distillation import growth
from gsd_cli.core.distillation.growth import grow
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import Generator, load_model, save_generator
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.core.training.loop import train
from tests.core.distillation.test_processes import require_alike, two_steps
from tests.core.distillation.test_step import EVERY, make, same, snapshot
from tests.support.stepping import run_step
from tests.support.teachers import FACES, SMALL, unet

SIZES = {"width 2": (2, 1), "width 3": (3, 1), "depth 2": (1, 2), "depth 3": (1, 3), "both": (2, 2)}

KINDS: dict[str, dict[str, Any]] = {
    "attention in heads": {},
    "one head": {"attention_head_dim": None, "layers_per_block": 2},
    "scale and shift": {"resnet_time_scale_shift": "scale_shift", "layers_per_block": 2},
    "classes": {"num_class_embeds": 4},
    "numbers as classes": {"class_embed_type": "timestep", "freq_shift": 1},
    "ddpm's frequencies": {"freq_shift": 1, "flip_sin_to_cos": False, "downsample_padding": 0},
    "an odd number of channels": {"block_out_channels": (9, 18), "norm_num_groups": 3, "attention_head_dim": 3},
    "resampling in residual blocks": {"downsample_type": "resnet", "upsample_type": "resnet"},
    "residual resampling blocks": {
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D"),
    },
    "an embedding of its own width": {"time_embedding_dim": 12},
    "a scaled middle": {"mid_block_scale_factor": 1.4, "attn_norm_num_groups": 4},
    "no middle": {"mid_block_type": None},
    "a middle without attention": {"add_attention": False, "act_fn": "gelu"},
    "old names": {
        "down_block_types": ("UNetResDownBlock2D", "UNetResAttnDownBlock2D"),
        "up_block_types": ("UNetResAttnUpBlock2D", "UNetResUpBlock2D"),
    },
}
"""What `tests.support.teachers.SMALL` is changed in."""


def teacher(seed: int = 0, base: dict[str, Any] = SMALL, **changes: Any) -> Denoiser:
    """A network none of whose parameters is the 0 or 1 that it would have at first."""
    net = unet(base, seed, **changes)
    for value in net.parameters():
        value.add_(0.1 * torch.randn(value.shape))
    return Denoiser(net, BetaSchedule.linear())


@torch.no_grad()
def error(one: Denoiser, other: Denoiser, batch: int = 4) -> float:
    """The largest difference of two networks' outputs over timesteps and classes, in units of the largest output."""
    x, t = torch.randn(batch, *one.shape), torch.tensor([440.2, 0.0, 999.0, 20.5])[:batch]
    count = one.classes or 0
    embedded = one.net.class_embedding is not None
    labels = (torch.arange(batch) % (count or 9),) if embedded else ()
    a, b = (model.net(x, t, *labels).sample for model in (one, other))
    return ((a - b).abs().max() / a.abs().max()).item()


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("changes", KINDS.values(), ids=KINDS.keys())
def test_a_grown_network_is_the_same_function(changes: dict[str, Any], size: tuple[int, int]) -> None:
    model = teacher(**changes)
    grown = grow(model, *size)
    assert sum(p.numel() for p in grown.parameters()) > 1.2 * sum(p.numel() for p in model.parameters())
    assert error(model, grown) < 1e-5
    assert error(model, teacher(seed=1, **changes)) > 1e-2


def test_the_blocks_of_the_256_teachers_grow() -> None:
    model = teacher(base=FACES)
    assert error(model, grow(model, 2, 2), batch=1) < 1e-5


@pytest.mark.parametrize("size", [(2, 1), (1, 2), (3, 2)])
@torch.no_grad()
def test_the_bundled_teacher_s_images_stay(size: tuple[int, int]) -> None:
    denoiser = load_teacher("ddpm-fashion").denoiser
    z = latents(range(4), denoiser.shape)
    wanted, made = (Generator.from_teacher(model, 2.5).eval()(z) for model in (denoiser, grow(denoiser, *size)))
    assert (made - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_without_growth_it_is_a_copy(toy_teacher: Denoiser) -> None:
    found = grow(toy_teacher)
    assert same(snapshot(found), snapshot(toy_teacher))
    assert found.net is not toy_teacher.net


def test_the_weights_depend_on_the_seed_alone(toy_teacher: Denoiser) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one = snapshot(grow(toy_teacher, 2, 2, seed=3))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert same(one, snapshot(grow(toy_teacher, 2, 2, seed=3)))
    other = snapshot(grow(toy_teacher, 2, 2, seed=4))
    assert not torch.equal(
        one["net.down_blocks.0.resnets.0.conv2.weight"], other["net.down_blocks.0.resnets.0.conv2.weight"]
    )
    assert not torch.equal(
        one["net.down_blocks.0.resnets.1.conv1.weight"], other["net.down_blocks.0.resnets.1.conv1.weight"]
    )


@pytest.mark.parametrize("copies", [2, 3])
@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3, 3)])
def test_shares_sum_to_the_weight_and_differ(shape: tuple[int, ...], copies: int) -> None:
    weight = torch.randn(shape, dtype=torch.float64)
    parts = growth._shares(weight, copies).unflatten(1, (-1, copies))
    torch.testing.assert_close(parts.sum(2), weight, rtol=0, atol=1e-14)
    assert (parts.diff(dim=2).abs() > 1e-6).all()


def unlike(model: Denoiser, steps: int) -> dict[str, float]:
    """How unlike the gradients of two copies of a channel are after some steps; of a network twice as wide."""
    net = copy.deepcopy(model.net).requires_grad_(True)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, (0.0, 0.999))
    for step in range(steps + 1):
        optimizer.zero_grad()
        x = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(step))
        (net(x, torch.tensor([440.2, 100.0])).sample - x).square().sum().backward()
        if step < steps:
            optimizer.step()
    found = {}
    for name, value in net.named_parameters():
        # a key's bias adds the same to all products of a query, which a softmax does not see
        if not name.startswith("conv_out") and not name.endswith("to_k.bias"):
            pairs = value.grad.unflatten(0, (-1, 2))
            found[name] = ((pairs[:, 0] - pairs[:, 1]).abs().max() / pairs.abs().max()).item()
    return found


def test_copies_do_not_stay_equal_after_a_gradient_step(monkeypatch: pytest.MonkeyPatch) -> None:
    model = teacher()
    found = unlike(grow(model, 2, 1), 0)
    # equal queries meet equal keys: theirs part when what they read has
    later = {name for name in found if ".to_q." in name or ".to_k." in name}
    assert later
    assert min(found[name] for name in found.keys() - later) > 0.05
    assert min(unlike(grow(model, 2, 1), 2).values()) > 5e-4
    monkeypatch.setattr(growth, "JITTER", 0.0)
    assert max(unlike(grow(model, 2, 1), 2).values()) < 1e-5


def test_added_layers_learn() -> None:
    """Their last layers move at once, and the rest as soon as those are not 0."""
    task = make(teacher(), irl="off", student_depth=2)
    before = snapshot(task.generator.denoiser.net)
    for step in range(2):
        run_step(task, step)
    after = snapshot(task.generator.denoiser.net)
    for block in ("down_blocks.1", "up_blocks.0"):
        for layer in ("resnets.1.conv1", "resnets.1.conv2", "attentions.1.to_v", "attentions.1.to_out.0"):
            assert not torch.equal(before[f"{block}.{layer}.weight"], after[f"{block}.{layer}.weight"])


@torch.no_grad()
def test_diffusers_opens_a_grown_generator(tmp_path: Path) -> None:
    generator = Generator(grow(teacher(freq_shift=1), 2, 2))
    save_generator(generator, tmp_path / "g", {}, "card", half=False)
    z = latents(range(2), generator.latent_shape)
    image = generator(z)
    assert torch.equal(load_model(str(tmp_path / "g")).generator(z), image)
    net: Any = UNet2DModel.from_pretrained(tmp_path / "g")
    assert (net.config.block_out_channels, net.config.layers_per_block) == ([16, 32], 2)
    t = generator.denoiser.schedule.timestep(torch.tensor([2.5, 2.5]))
    x = 2.5 * z
    torch.testing.assert_close(x - 2.5 * net.eval()(x / 7.25**0.5, t).sample, image, rtol=0, atol=1e-5)


GROWN = {"student_width": 2, "student_depth": 2}


class TestDistillation:
    def test_the_student_alone_is_larger_and_starts_as_the_teacher(self, toy_teacher: Denoiser) -> None:
        task, plain = make(toy_teacher, **GROWN), make(toy_teacher)
        sizes = [
            sum(p.numel() for p in m.parameters())
            for m in (task.generator, task.average, task.fake_score.network, task.teacher)
        ]
        assert sizes[0] == sizes[1] > 4 * sizes[2] == 4 * sizes[3]
        one, other = run_step(task, 0), run_step(plain, 0)
        # the losses of a first step see the images alone
        assert {k: one[k] for k in ("fake_loss", "sidl_norm")} == pytest.approx(
            {k: other[k] for k in ("fake_loss", "sidl_norm")}, rel=1e-3
        )
        start = snapshot(make(toy_teacher, **GROWN).generator)
        assert not same(snapshot(task.generator), start)
        assert not same(snapshot(task.average), start)
        assert all(math.isfinite(value) for value in (*one.values(), *run_step(task, 1).values()))

    def test_a_resumed_run_is_bit_identical(self, toy_teacher: Denoiser, tmp_path: Path) -> None:
        straight = make(toy_teacher, 4, **GROWN)
        list(train(straight, 4, tmp_path / "straight", EVERY))
        torch.manual_seed(77)
        first, asked = make(toy_teacher, 4, **GROWN), itertools.count(1)
        list(train(first, 4, tmp_path / "halves", EVERY, lambda: next(asked) == 2))
        torch.manual_seed(78)
        second = make(toy_teacher, 4, **GROWN)
        reports = list(train(second, 4, tmp_path / "halves", EVERY))
        assert [r.step for r in reports] == [3, 4]
        assert same(straight.tensors(), second.tensors())
        assert not same(straight.tensors(), first.tensors())

    def test_micro_batches_give_the_whole_batch_s_gradient(self, toy_teacher: Denoiser) -> None:
        whole = two_steps(toy_teacher, **GROWN)
        require_alike(whole, two_steps(toy_teacher, **GROWN, micro_batch=3))
        with pytest.raises(AssertionError):
            require_alike(whole, two_steps(toy_teacher, **GROWN, seed=1))

    def test_recomputing_gives_the_same_step(self, toy_teacher: Denoiser) -> None:
        plain, frugal = (make(toy_teacher, **GROWN, recompute=recompute) for recompute in (False, True))
        assert run_step(plain, 3) == pytest.approx(run_step(frugal, 3), rel=1e-6)

    def test_a_checkpoint_of_another_size_is_refused(self, toy_teacher: Denoiser) -> None:
        tensors = make(toy_teacher, **GROWN).tensors()
        with pytest.raises(GsdError, match="generator network is not of the size") as caught:
            make(toy_teacher, student_width=2).load(tensors)
        assert caught.value.code == ExitCode.USAGE


SKIP = {"down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"), "in_channels": 3, "out_channels": 3}


class Perceptron(nn.Module):
    """Not a UNet2DModel."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("build", "size", "named"),
    [
        (lambda: unet(SMALL, **SKIP, block_out_channels=(32, 64)), (1, 2), "AttnSkipDownBlock2D"),
        (lambda: unet(SMALL, class_embed_type="identity"), (2, 1), "embeddings for classes"),
        (
            lambda: unet(SMALL, time_embedding_type="learned", num_train_timesteps=1000),
            (2, 1),
            "learned time embedding",
        ),
        (lambda: unet(SMALL, time_embedding_type="fourier"), (2, 1), "fourier time embedding"),
        (lambda: unet(SMALL, time_embedding_type="fourier"), (1, 2), "fourier time embedding"),
        (lambda: unet(SMALL), (1, 65), "65 layers per block"),
        (lambda: unet(SMALL), (2**17, 1), "2,097,152 channels"),
        (Perceptron, (2, 1), "a Perceptron cannot be grown"),
    ],
)
def test_what_cannot_be_grown_is_refused_by_name(build: Any, size: tuple[int, int], named: str) -> None:
    with pytest.raises(GsdError, match=named) as caught:
        grow(Denoiser(build(), BetaSchedule.linear()), *size)
    assert caught.value.code == ExitCode.USAGE
    assert "--student-width" in (caught.value.hint or "")


@pytest.mark.parametrize("changes", [{"class_embed_type": "identity"}, {"time_embedding_type": "learned"}])
def test_what_cannot_be_grown_in_width_can_be_in_depth(changes: dict[str, Any]) -> None:
    model = teacher(**changes, num_train_timesteps=1000)
    x, t, labels = torch.randn(2, *model.shape), torch.tensor([440, 3]), torch.randn(2, 32)
    given = (labels,) if model.net.class_embedding is not None else ()
    with torch.no_grad():
        wanted, found = (m.net(x, t, *given).sample for m in (model, grow(model, 1, 2)))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
