"""The kinds of networks: what UNet2DModel provides, and that a Denoiser needs nothing else of a network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gsd_cli
from gsd_cli.base.errors import GsdError
from gsd_cli.core.latents.render import record_bottleneck, render
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.diffusers_folder import NETWORK_KINDS
from gsd_cli.core.models.generator import Generator
from gsd_cli.core.models.network_kind import NetworkKind
from gsd_cli.core.models.unet2d import UNET2D, bottleneck, output_layers
from tests.support.teachers import SMALL, unet

OF_THE_UNET = re.compile(
    r"mid_block|down_blocks|up_blocks|conv_norm_out|center_input_sample|time_proj|time_embedding|class_embed_type"
)


class Perceptron(nn.Module):
    """A network with nothing in common with a UNet: a config is not needed, and it returns a plain tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Conv2d(1, 2, 4, stride=4), nn.ConvTranspose2d(2, 1, 4, stride=4)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.wide(self.narrow(x))


PERCEPTRON = NetworkKind(
    diffusers_class="Perceptron",
    class_names=("Perceptron",),
    shape=lambda net: (1, 8, 8),
    classes=lambda net: None,
    call=lambda net, x, t, condition: net(x, t),
    encode=lambda net, x, t, full: [net.narrow(x)],
    bottleneck=lambda net: net.narrow,
    output_layers=lambda net: ("wide",),
)


@torch.no_grad()
def test_a_denoiser_asks_its_network_through_its_kind_alone() -> None:
    net = Perceptron()
    model = Denoiser(net, BetaSchedule.linear(), kind=PERCEPTRON)
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor([0.5, 3.0])
    s = sigma.reshape(-1, 1, 1, 1)
    scaled = x / (1 + s**2).sqrt()
    torch.testing.assert_close(model(x, sigma), x - s * net(scaled, sigma))
    (coarse,) = model.encode(x, sigma)
    torch.testing.assert_close(coarse, net.narrow(scaled))
    assert (model.shape, model.classes, model.output_layers()) == ((1, 8, 8), None, ("net.wide",))
    generator, seen = Generator(model), []
    with record_bottleneck(generator, seen):
        generator(x)
    assert [tuple(found.shape) for found in seen] == [(2, 2, 2, 2)]
    shifted = render(generator, x, shifts=torch.ones(2, 2, 2, 2))
    assert not torch.allclose(shifted, render(generator, x))


def test_every_kind_is_found_by_its_names() -> None:
    assert all(name in kind.class_names for name, kind in NETWORK_KINDS.items())
    assert NETWORK_KINDS["UNetUnconditionalModel"] is NETWORK_KINDS["UNet2DModel"] is UNET2D


def test_output_layers_end_the_network() -> None:
    net = unet(SMALL)
    names = output_layers(net)
    modules = dict(net.named_modules())
    assert all(name in modules for name in names)
    order: list[str] = []
    for name in names:
        modules[name].register_forward_hook(lambda _m, _i, _o, name=name: order.append(name))
    with torch.no_grad():
        output = net(torch.zeros(1, 1, 16, 16), 5).sample
    assert tuple(order) == names
    assert output.shape == (1, 1, 16, 16)


def test_a_network_without_a_middle_has_no_bottleneck() -> None:
    net: Any = unet(SMALL)
    assert bottleneck(net) is net.mid_block
    with pytest.raises(GsdError, match="no mid block"):
        bottleneck(unet(SMALL, mid_block_type=None))


def test_no_other_module_names_the_blocks_of_the_unet() -> None:
    package = Path(gsd_cli.__file__).parent
    naming = {path.name for path in package.rglob("*.py") if OF_THE_UNET.search(path.read_text(encoding="utf-8"))}
    of_text = {"unet2d_condition.py", "unet2d_condition_config.py"}
    # the last has a bottleneck of its own
    assert naming == {"unet2d.py", "unet2d_config.py", "bare_guided.py", "ddp_unet.py"} | of_text
