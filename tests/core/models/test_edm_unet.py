"""EDM's networks: published sizes and names, and diffusers' layers and networks with the same weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import FirDownsample2D
from diffusers.models.embeddings import GaussianFourierProjection, Timesteps
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from gsd_cli.base.errors import GsdError
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.edm_config import DHARIWAL, SONG, EdmConfig, from_arguments, require_usable
from gsd_cli.core.models.edm_kind import DHARIWAL_UNET, SONG_UNET
from gsd_cli.core.models.edm_layers import Block, BlockStyle, Convolution, FourierEncoding, PositionalEncoding
from gsd_cli.core.models.edm_unet import CLASSES, EdmUNet
from tests.support.edm_files import ADM, CIFAR_DDPMPP, CIFAR_NCSNPP, FFHQ_DDPMPP, IMAGENET_ADM, SMALL, random_net

# -- what was published ---------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "arguments", "parameters"), [
    (SONG, CIFAR_DDPMPP, 55_733_891), (SONG, CIFAR_NCSNPP, 56_397_827), (SONG, FFHQ_DDPMPP, 61_805_571),
    (DHARIWAL, IMAGENET_ADM, 295_899_267),
], ids=["ddpm++", "ncsn++", "ffhq", "adm"])  # fmt: skip
def test_sizes_are_those_of_the_paper(name: str, arguments: dict, parameters: int) -> None:
    """55.7 M, 56.4 M, 61.8 M and 295.9 M."""
    with torch.device("meta"):
        net = CLASSES[name](from_arguments(name, arguments).to_json(name))
    assert sum(p.numel() for p in net.parameters()) == parameters


def test_names_and_shapes_are_those_of_the_published_files() -> None:
    with torch.device("meta"):
        state = CLASSES[SONG](from_arguments(SONG, CIFAR_NCSNPP | {"label_dim": 10}).to_json(SONG)).state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    assert {
        "map_noise.freqs": (128,), "map_label.weight": (256, 10), "map_label.bias": (256,),
        "map_augment.weight": (256, 9), "map_layer0.weight": (512, 256), "map_layer1.bias": (512,),
        "enc.32x32_conv.weight": (128, 3, 3, 3), "enc.32x32_block0.conv0.weight": (256, 128, 3, 3),
        "enc.32x32_block0.skip.weight": (256, 128, 1, 1), "enc.32x32_block3.affine.weight": (256, 512),
        "enc.16x16_down.conv0.resample_filter": (1, 1, 4, 4), "enc.16x16_down.skip.resample_filter": (1, 1, 4, 4),
        "enc.16x16_aux_residual.weight": (256, 3, 3, 3), "enc.8x8_aux_residual.weight": (256, 256, 3, 3),
        "enc.16x16_block0.norm2.weight": (256,), "enc.16x16_block0.qkv.weight": (768, 256, 1, 1),
        "enc.16x16_block0.proj.bias": (256,), "dec.8x8_in0.qkv.weight": (768, 256, 1, 1),
        "dec.8x8_block4.skip.weight": (256, 512, 1, 1), "dec.16x16_block4.qkv.bias": (768,),
        "dec.32x32_up.conv0.resample_filter": (1, 1, 4, 4), "dec.32x32_block4.skip.weight": (256, 384, 1, 1),
        "dec.32x32_aux_norm.weight": (256,), "dec.32x32_aux_conv.weight": (3, 256, 3, 3),
    }.items() <= shapes.items()  # fmt: skip
    assert "enc.8x8_block0.qkv.weight" not in shapes and "dec.16x16_block3.qkv.weight" not in shapes
    assert "enc.32x32_block1.skip.weight" not in shapes
    assert len({name.split(".")[1] for name in shapes if name.startswith("enc")}) == 1 + 3 * 4 + 2 * 2
    assert len({name.split(".")[1] for name in shapes if name.startswith("dec")}) == 2 + 3 * 5 + 2 + 2


# -- layers, against diffusers' ---------------------------------------------------------------------

STYLE = BlockStyle(32, 0.0, (1, 3, 3, 1), eps=1e-6, skip_scale=math.sqrt(0.5))
ADM_STYLE = BlockStyle(32, 0.0, (1, 1), eps=1e-5, skip_scale=1, scale_shift=True, projected=False, head_channels=8)


def give(theirs: nn.Module, ours: nn.Module, names: dict[str, str]) -> None:
    """Give diffusers' layer the weights of ours; names: theirs to ours."""
    for their_name, our_name in names.items():
        wanted, given = theirs.get_submodule(their_name), ours.get_submodule(our_name)
        wanted.load_state_dict({k: given.get_parameter(k).reshape(v.shape) for k, v in wanted.state_dict().items()})


RESIDUAL = {"norm1": "norm0", "conv1": "conv0", "time_emb_proj": "affine", "norm2": "norm1", "conv2": "conv1"}


@pytest.mark.parametrize("resample", [None, "up", "down"])
@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
@torch.no_grad()
def test_a_block_is_diffusers_residual_block(resample: Any, taps: tuple[int, ...]) -> None:
    ours = Block(BlockStyle(32, 0.0, taps, eps=1e-6, skip_scale=math.sqrt(0.5)), 16, 24, resample=resample)
    theirs = ResnetBlock2D(
        in_channels=16, out_channels=24, temb_channels=32, groups=4, groups_out=6, eps=1e-6,
        output_scale_factor=math.sqrt(2), up=resample == "up", down=resample == "down", conv_shortcut=True,
        kernel="fir" if len(taps) == 4 else "sde_vp",
    )  # fmt: skip
    give(theirs, ours, {**RESIDUAL, "conv_shortcut": "skip"})
    x, before = torch.randn(3, 16, 8, 8), torch.randn(3, 32)
    # diffusers applies silu to the embedding in every block, EDM once
    torch.testing.assert_close(ours(x, nn.functional.silu(before)), theirs(x, before), atol=1e-5, rtol=0)


@pytest.mark.parametrize("resample", [None, "up", "down"])
@torch.no_grad()
def test_adm_s_block_scales_and_shifts(resample: Any) -> None:
    ours = Block(ADM_STYLE, 16, 16, resample=resample)
    theirs = ResnetBlock2D(
        in_channels=16, temb_channels=32, groups=4, eps=1e-5, up=resample == "up", down=resample == "down",
        time_embedding_norm="scale_shift",
    )  # fmt: skip
    give(theirs, ours, RESIDUAL)
    x, before = torch.randn(3, 16, 8, 8), torch.randn(3, 32)
    torch.testing.assert_close(ours(x, nn.functional.silu(before)), theirs(x, before), atol=1e-5, rtol=0)


def give_attention(theirs: Attention, ours: Block) -> None:
    """qkv's output is cut into [heads, channels, 3]."""
    channels = ours.out_channels
    for k, name in enumerate(("to_q", "to_k", "to_v")):
        weight = ours.qkv.weight.reshape(channels, 3, channels)[:, k]
        theirs.get_submodule(name).load_state_dict({"weight": weight, "bias": ours.qkv.bias.reshape(channels, 3)[:, k]})
    theirs.to_out[0].load_state_dict(
        {"weight": ours.proj.weight.reshape(channels, channels), "bias": ours.proj.bias}
    )  # fmt: skip
    theirs.group_norm.load_state_dict(ours.norm2.state_dict())


@pytest.mark.parametrize(("style", "heads"), [(STYLE, 1), (ADM_STYLE, 2)])
@torch.no_grad()
def test_attention_is_diffusers(style: BlockStyle, heads: int) -> None:
    ours = Block(style, 16, 16, attention=True)
    theirs = Attention(
        16, heads=heads, dim_head=16 // heads, rescale_output_factor=1 / style.skip_scale, eps=style.eps,
        norm_num_groups=4, residual_connection=True, bias=True, upcast_softmax=True,
    )  # fmt: skip
    give_attention(theirs, ours)
    x = torch.randn(3, 16, 4, 4)
    torch.testing.assert_close((x + ours._attend(x)) * style.skip_scale, theirs(x), atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_residual_of_ncsnpp_is_diffusers_filtered_convolution() -> None:
    ours = Convolution(3, 8, 3, resample="down", taps=(1, 3, 3, 1), fused=True)
    theirs = FirDownsample2D(3, 8, use_conv=True, fir_kernel=(1, 3, 3, 1))
    theirs.Conv2d_0.load_state_dict({"weight": ours.weight, "bias": ours.bias})
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-6, rtol=0)


def test_encodings_are_diffusers() -> None:
    time = torch.tensor([-1.5, 0.0, 0.23, 1.1])
    song = PositionalEncoding(16, sines_first=True, to_end=True)(time)
    torch.testing.assert_close(song, Timesteps(16, False, 1)(time))
    adm = PositionalEncoding(16, sines_first=False, to_end=False)(time)
    torch.testing.assert_close(adm, Timesteps(16, True, 0)(time))
    fourier = FourierEncoding(16, sines_first=True)
    theirs = GaussianFourierProjection(8, log=False, flip_sin_to_cos=False)
    theirs.weight.data = fourier.freqs
    torch.testing.assert_close(fourier(time), theirs(time), atol=1e-4, rtol=0)  # angles of up to 300 in float32


# -- whole networks ---------------------------------------------------------------------------------


@torch.no_grad()
def test_ddpmpp_is_diffusers_network_of_the_same_layers() -> None:
    """diffusers' UNet2DModel with ResNet resampling, its attentions where DDPM++ has them, and sums over sqrt(2)."""
    ours = random_net(SONG, SMALL | {"model_channels": 128, "channel_mult": [1, 1], "num_blocks": 2})
    theirs = UNet2DModel(
        sample_size=16, in_channels=3, out_channels=3, block_out_channels=(128, 128), layers_per_block=2, norm_eps=1e-6,
        norm_num_groups=32, flip_sin_to_cos=False, freq_shift=1, attention_head_dim=None, downsample_type="resnet",
        upsample_type="resnet", down_block_types=("AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("ResnetUpsampleBlock2D", "AttnUpBlock2D"), add_attention=True,
    ).eval()  # fmt: skip
    for module in theirs.modules():
        if isinstance(module, ResnetBlock2D):
            module.output_scale_factor = math.sqrt(2)
        if isinstance(module, Attention):
            module.rescale_output_factor = math.sqrt(2)
    give(theirs, ours, {
        "conv_in": "enc.16x16_conv", "conv_norm_out": "dec.16x16_aux_norm", "conv_out": "dec.16x16_aux_conv",
        "time_embedding.linear_1": "map_layer0", "time_embedding.linear_2": "map_layer1",
    })  # fmt: skip
    places = {f"down_blocks.{level}.resnets.{k}": f"enc.{side}_block{k}" for level, side in enumerate(("16x16", "8x8"))
              for k in range(2)}  # fmt: skip
    places |= {f"up_blocks.{1 - level}.resnets.{k}": f"dec.{side}_block{k}"
               for level, side in enumerate(("16x16", "8x8")) for k in range(3)}  # fmt: skip
    places |= {"down_blocks.0.downsamplers.0": "enc.8x8_down", "up_blocks.0.upsamplers.0": "dec.16x16_up",
               "mid_block.resnets.0": "dec.8x8_in0", "mid_block.resnets.1": "dec.8x8_in1"}  # fmt: skip
    for their_name, our_name in places.items():
        block = theirs.get_submodule(their_name)
        ours_has_skip = ours.get_submodule(our_name).skip is not None
        if ours_has_skip and block.conv_shortcut is None:  # diffusers projects only where channels change
            block.conv_shortcut = nn.Conv2d(128, 128, 1)
        give(block, ours.get_submodule(our_name), {**RESIDUAL, **({"conv_shortcut": "skip"} if ours_has_skip else {})})
    for k in range(2):
        give_attention(theirs.down_blocks[0].attentions[k], ours.enc[f"16x16_block{k}"])
    give_attention(theirs.mid_block.attentions[0], ours.dec["8x8_in0"])
    give_attention(theirs.up_blocks[1].attentions[2], ours.dec["16x16_block2"])
    for k in range(2):  # DDPM++ has one attention per resolution of the decoder
        theirs.up_blocks[1].attentions[k] = nn.Identity()
    x, time = torch.randn(2, 3, 16, 16), torch.tensor([0.3, -1.2])
    torch.testing.assert_close(ours(x, time), theirs(x, time).sample, atol=2e-5, rtol=0)


@torch.no_grad()
def test_ncsnpp_adds_the_filtered_input_at_each_resolution() -> None:
    net = random_net(SONG, SMALL | {"embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2,
                                    "resample_filter": [1, 3, 3, 1], "channel_mult": [1, 2, 2]})  # fmt: skip
    x, time = torch.randn(2, 3, 16, 16), torch.tensor([0.3, -1.2])
    maps = net.encode(x, time)
    embedding = net._embed(x, time, None)
    first = net.enc["8x8_down"](maps["16x16_block0"], embedding)
    first = (first + net.enc["8x8_aux_residual"](x)) / math.sqrt(2)
    torch.testing.assert_close(maps["8x8_down"], first)
    second = net.enc["4x4_down"](maps["8x8_block0"], embedding)
    second = (second + net.enc["4x4_aux_residual"](first)) / math.sqrt(2)  # of the sum, not of the input
    torch.testing.assert_close(maps["4x4_down"], second)


@pytest.mark.parametrize(("name", "arguments"), [(SONG, SMALL), (DHARIWAL, ADM)], ids=["song", "adm"])
class TestNetwork:
    def test_classes_are_one_hot(self, name: str, arguments: dict) -> None:
        net = random_net(name, arguments | {"label_dim": 3})
        x, time = torch.randn(2, 3, 16, 16), torch.tensor([0.3, -1.2])
        one, other = net(x, time, torch.tensor([0, 2])), net(x, time, torch.tensor([1, 2]))
        assert not torch.allclose(one[0], other[0]) and torch.equal(one[1], other[1])
        # a column of the layer belongs to a class; without a class, none is added
        net.map_label.weight.data[:, 1] = 0
        torch.testing.assert_close(net(x, time, torch.tensor([1, 1])), net(x, time))

    def test_augmentation_changes_nothing_and_has_gradients_of_zero(self, name: str, arguments: dict) -> None:
        net = random_net(name, arguments | {"augment_dim": 9})
        x, time = torch.randn(2, 3, 16, 16), torch.tensor([0.3, -1.2])
        before = net(x, time)
        net.map_augment.weight.data.normal_()
        assert torch.equal(net(x, time), before)
        net.requires_grad_(True)(x, time).square().mean().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
        assert not net.map_augment.weight.grad.any() and net.map_layer0.weight.grad.any()

    def test_features_end_at_the_bottleneck(self, name: str, arguments: dict) -> None:
        kind = SONG_UNET if name == SONG else DHARIWAL_UNET
        net = random_net(name, arguments)
        x, time = torch.randn(2, 3, 16, 16), torch.tensor([0.3, -1.2])
        seen: list[Tensor] = []
        with kind.bottleneck(net).register_forward_hook(lambda module, given, out: seen.append(out)):
            kind.call(net, x, time, Condition())
            maps = kind.encode(net, x, time, True)
        assert torch.equal(seen[0], maps[-1]) and torch.equal(seen[0], seen[1])
        assert [m.shape[2] for m in maps] == [16, 8, 8]
        assert [m.shape for m in kind.encode(net, x, time, False)] == [m.shape for m in maps[1:]]
        x.requires_grad_(True)
        sum(m.square().mean() for m in kind.encode(net, x, time, True)).backward()
        assert torch.isfinite(x.grad).all() and x.grad.any()
        names = {name for name, _ in net.named_modules()}
        assert len(kind.output_layers(net)) == 3 and set(kind.output_layers(net)) <= names

    def test_recomputing_gives_the_same_gradients(self, name: str, arguments: dict) -> None:
        net = random_net(name, arguments | {"dropout": 0.0}).train().requires_grad_(True)
        x, time = torch.randn(2, 3, 16, 16), torch.tensor([0.3, -1.2])
        found = []
        for _ in range(2):
            net.zero_grad()
            net(x, time).square().mean().backward()
            found.append([p.grad.clone() for p in net.parameters()])
            net.enable_gradient_checkpointing()
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other)

    def test_its_config_makes_it_again(self, name: str, arguments: dict) -> None:
        net = random_net(name, arguments)
        kind = SONG_UNET if name == SONG else DHARIWAL_UNET
        again = kind.build(net.config)
        assert isinstance(again, EdmUNet) and again.sizes == net.sizes and type(again) is type(net)
        again.load_state_dict(net.state_dict())


# -- configs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [
    {"sample_size": None}, {"sample_size": 10**9}, {"in_channels": 0}, {"in_channels": True}, {"out_channels": 4},
    {"channel_mult": []}, {"channel_mult": [1] * 17}, {"channel_mult": "1,2"}, {"channel_mult": [1, 10**400]},
    {"model_channels": 6}, {"num_blocks": 10**6}, {"attn_resolutions": 16}, {"dropout": 2}, {"dropout": "none"},
    {"embedding_type": "zero"}, {"embedding_type": []}, {"encoder_type": "skip"}, {"decoder_type": "skip"},
    {"resample_filter": [1, 2, 1]}, {"resample_filter": [1, -1]}, {"resample_filter": [float("nan"), 1]},
    {"sample_size": 12, "channel_mult": [1, 1, 1, 1]}, {"num_class_embeds": -1}, {"augment_dim": 10**9},
], ids=str)  # fmt: skip
def test_what_is_no_config_is_an_input_error(change: dict, tmp_path: Any) -> None:
    config = EdmConfig(16, 3, 3).to_json(SONG)
    require_usable(tmp_path, config)
    with pytest.raises(GsdError) as caught:
        require_usable(tmp_path, {**config, **change})
    assert caught.value.code == 3


def test_adm_s_heads_divide_its_channels() -> None:
    with pytest.raises(GsdError, match="multiple of 64"):
        from_arguments(DHARIWAL, ADM | {"model_channels": 96})


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(GsdError, match="colour"):
        from_arguments(SONG, SMALL | {"colour": "blue"})
