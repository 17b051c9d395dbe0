"""The heads on the frozen teacher's encoder: what they see, and what they can learn."""

from __future__ import annotations

import pytest
import torch

from gsd_cli.core.distillation.discriminator import build_heads, embed_level, encoder_maps
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.condition import UNCONDITIONAL, Condition, every_class
from gsd_cli.core.models.denoiser import Denoiser, per_image
from gsd_cli.core.training.unets import build_unet

KINDS = {
    "plain": {},
    "attention": {"attention": True},
    "classes": {"classes": 3},
}


def teacher_of(kind: str) -> Denoiser:
    torch.manual_seed(2)
    from diffusers import UNet2DModel

    if kind == "attention":
        net = UNet2DModel(
            sample_size=16, in_channels=3, out_channels=3, layers_per_block=2, block_out_channels=(8, 16),
            norm_num_groups=4, attention_head_dim=8, add_attention=True,
            down_block_types=("AttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "AttnUpBlock2D"),
        )  # fmt: skip
    else:
        net = build_unet("tiny", 16, 1, **KINDS[kind])
    return Denoiser(net, BetaSchedule.linear()).eval().requires_grad_(False)


@pytest.mark.parametrize("kind", KINDS)
def test_there_is_a_map_per_block_and_one_of_full_resolution(kind: str) -> None:
    teacher = teacher_of(kind)
    x = torch.randn(3, *teacher.shape)
    maps = teacher.encode(x, per_image(0.3, x), full=True)
    assert maps[0].shape[2:] == teacher.shape[1:]
    plain = teacher.encode(x, per_image(0.3, x))
    assert len(maps) == len(plain) + 1
    assert all(torch.equal(a, b) for a, b in zip(maps[1:], plain, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_full_resolution_map_is_what_the_downsampler_reads(kind: str) -> None:
    teacher = teacher_of(kind)
    x = torch.randn(2, *teacher.shape)
    full, below, *_ = teacher.encode(x, per_image(0.3, x), full=True)
    (downsample,) = teacher.net.down_blocks[0].downsamplers
    torch.testing.assert_close(downsample(full), below)


def test_a_positions_channels_have_a_root_mean_square_of_one(toy_teacher: Denoiser) -> None:
    x = torch.randn(2, 1, 16, 16)
    for m in encoder_maps(toy_teacher, x, per_image(0.3, x)):
        torch.testing.assert_close(m.square().mean(1), torch.ones_like(m[:, 0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_give_a_logit_per_position(kind: str) -> None:
    teacher = teacher_of(kind)
    x, sigma = torch.randn(3, *teacher.shape), torch.tensor([0.01, 0.3, 8.0])
    maps = encoder_maps(teacher, x, sigma)
    condition = every_class(3) if teacher.classes else UNCONDITIONAL
    heads = build_heads(teacher, 0)
    logits = heads(maps, sigma, condition)
    assert [tuple(m.shape) for m in logits] == [(3, *m.shape[2:]) for m in maps]
    if condition.classes is not None:
        others = heads(maps, sigma, Condition(condition.classes.flip(0)))
        assert not torch.equal(logits[0][0], others[0][0]), "a class changes the logits"
        assert torch.equal(logits[0][1], others[0][1])
    levels = heads(maps, sigma.flip(0), condition)
    assert not torch.equal(logits[0][0], levels[0][0]), "a noise level changes the logits"


def test_first_weights_are_a_function_of_the_seed(toy_teacher: Denoiser) -> None:
    torch.manual_seed(5)
    one = build_heads(toy_teacher, 7)
    torch.manual_seed(6)
    same, other = build_heads(toy_teacher, 7), build_heads(toy_teacher, 8)
    state = one.state_dict()
    assert all(torch.equal(v, same.state_dict()[k]) for k, v in state.items())
    assert not all(torch.equal(v, other.state_dict()[k]) for k, v in state.items())


def test_noise_levels_are_told_apart_over_the_whole_range() -> None:
    sigma = torch.logspace(-2, 1, 50)
    embedded = embed_level(sigma)
    assert embedded.shape == (50, 8)
    assert embedded.abs().max() <= 1
    steps = (embedded[1:] - embedded[:-1]).norm(dim=1)
    assert steps.min() > 0.05
