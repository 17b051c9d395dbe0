from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor, nn

from gsd_cli.base.errors import GsdError
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.denoiser import Denoiser, per_image

LINEAR = BetaSchedule.linear()


class Recorder(nn.Module):
    """A network that keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(sample_size=(4, 6), in_channels=3)
        self.asked: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, t: Tensor) -> SimpleNamespace:
        self.asked.append((x, t))
        return SimpleNamespace(sample=torch.zeros_like(x))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("t", [0, 20, 440, 793, 999])
def test_clean_estimate_is_that_of_diffusers(toy_teacher: Denoiser, prediction: str, t: int) -> None:
    model = Denoiser(toy_teacher.net, LINEAR, prediction)
    scheduler = DDPMScheduler(prediction_type=prediction, clip_sample=False)
    sigma = LINEAR.sigmas[t].float()
    noisy = torch.randn(2, 1, 16, 16)  # variance-preserving scale
    with torch.no_grad():
        ours = model(noisy * (1 + sigma**2).sqrt(), sigma.expand(2))
        raw = toy_teacher.net(noisy, torch.tensor(t)).sample
    theirs = scheduler.step(raw, t, noisy).pred_original_sample
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-4 * max(1.0, sigma.item()))


def test_fractional_t_reaches_the_network() -> None:
    net = Recorder()
    wanted = torch.tensor([440.5, 12.25, 999.0])
    Denoiser(net, LINEAR)(torch.ones(3, 3, 4, 6), LINEAR.sigma(wanted))
    x, t = net.asked[0]
    assert t.is_floating_point()
    torch.testing.assert_close(t, wanted, rtol=0, atol=1e-3)
    torch.testing.assert_close(x[:, 0, 0, 0], (1 + LINEAR.sigma(wanted) ** 2).rsqrt())


def test_fractional_t_is_not_rounded_by_the_unet(toy_teacher: Denoiser) -> None:
    x = torch.randn(1, 1, 16, 16)

    def at(t: float) -> Tensor:
        return toy_teacher(x, LINEAR.sigma(torch.tensor([t])))

    with torch.no_grad():
        low, middle, high = at(20.0), at(20.5), at(21.0)
        sigma = LINEAR.sigma(torch.tensor([20.5]))
        by_hand = x - sigma * toy_teacher.net(x / (1 + sigma**2).sqrt(), torch.tensor([20.5])).sample
    torch.testing.assert_close(middle, by_hand, rtol=1e-4, atol=1e-5)
    # a rounded t would share the eps of one of its neighbours
    eps = [(x - d) / LINEAR.sigma(torch.tensor([t])) for d, t in ((low, 20.0), (middle, 20.5), (high, 21.0))]
    gap = (eps[2] - eps[0]).norm()
    assert (eps[1] - eps[0]).norm() > 0.2 * gap
    assert (eps[1] - eps[2]).norm() > 0.2 * gap


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_gradient_flows_where_a_clamp_would_cut_it(toy_teacher: Denoiser, prediction: str) -> None:
    model = Denoiser(toy_teacher.net, LINEAR, prediction)
    x = (5 * torch.randn(2, 1, 16, 16)).requires_grad_()
    estimate = model(x, torch.tensor([2.5, 2.5])) * (4 if prediction == "sample" else 1)
    outside = estimate[estimate.abs() > 1]
    assert len(outside)
    (gradient,) = torch.autograd.grad(outside.sum(), x)
    assert gradient.isfinite().all()
    assert (gradient != 0).float().mean() > 0.9


@pytest.mark.parametrize("prediction", ["flow_prediction", "", "eps"])
def test_unsupported_prediction_is_refused(prediction: str) -> None:
    with pytest.raises(GsdError, match="unsupported prediction type") as caught:
        Denoiser(Recorder(), LINEAR, prediction)
    assert caught.value.code == 3


def _with_attention() -> UNet2DModel:
    return UNet2DModel(
        sample_size=16, in_channels=1, out_channels=1, layers_per_block=2, block_out_channels=(8, 16),
        norm_num_groups=4, attention_head_dim=8, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), freq_shift=1, flip_sin_to_cos=False,
    )  # fmt: skip


@pytest.mark.parametrize("attention", [False, True])
def test_encode_gives_what_the_network_computes(toy_teacher: Denoiser, attention: bool) -> None:
    net = _with_attention().eval() if attention else toy_teacher.net
    model = Denoiser(net, LINEAR)
    seen: list[Tensor] = []
    hooks = [b.register_forward_hook(lambda m, i, out: seen.append(out[0])) for b in net.down_blocks]
    hooks.append(net.mid_block.register_forward_hook(lambda m, i, out: seen.append(out)))
    x, sigma = torch.randn(3, 1, 16, 16), torch.tensor([0.2, 1.0, 7.0])
    with torch.no_grad():
        model(x, sigma)
        for hook in hooks:
            hook.remove()
        maps = model.encode(x, sigma)
    assert len(maps) == len(seen) == 3
    for ours, theirs in zip(maps, seen, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_shape_and_per_image() -> None:
    assert Denoiser(Recorder(), LINEAR).shape == (3, 4, 6)
    filled = per_image(2.5, torch.zeros(3, 1, 2, 2, dtype=torch.float64))
    assert filled.dtype == torch.float64
    assert filled.tolist() == [2.5] * 3
