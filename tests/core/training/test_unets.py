from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.condition import Condition
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.diffusers_folder import load_denoiser, save_denoiser
from gsd_cli.core.models.unet2d_condition import UNET2D_CONDITION
from gsd_cli.core.training.unets import SIZES, build_unet


@pytest.mark.parametrize("architecture", SIZES)
def test_a_text_network_attends_to_every_token(architecture: str) -> None:
    torch.manual_seed(0)
    net = build_unet(architecture, 16, 3, text=6).eval()
    x, t = torch.randn(1, 3, 16, 16), torch.tensor([5])
    text = torch.randn(1, 4, 6, requires_grad=True)
    output = net(x, t, text).sample
    assert output.shape == x.shape
    (gradient,) = torch.autograd.grad(output.square().sum(), text)
    assert (gradient.abs().amax(-1) > 0).all()


def test_it_is_stored_as_a_teacher_that_is_read_back_exactly(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Denoiser(build_unet("tiny", 16, 3, text=6).eval(), BetaSchedule.linear(), kind=UNET2D_CONDITION)
    save_denoiser(model, tmp_path, half=False)
    assert not (tmp_path / "model_index.json").exists()  # diffusers has no pipeline of pixels and texts
    read = load_denoiser(tmp_path)
    given = torch.randn(2, 3, 16, 16), torch.tensor([0.5, 2.0]), Condition(embeddings=torch.randn(2, 4, 6))
    with torch.no_grad():
        assert torch.equal(read(*given), model(*given))


def test_classes_and_none_are_the_networks_of_before() -> None:
    assert type(build_unet("small", 32, 3)).__name__ == "UNet2DModel"
    assert build_unet("tiny", 16, 1, 3).config.num_class_embeds == 3
