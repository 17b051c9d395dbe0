"""Which precision a training takes: what was given, what a GPU has, what a CPU turns out to be fast in."""

from __future__ import annotations

import math

import pytest
import torch

from gsd_cli.core import device
from gsd_cli.core.denoiser import Denoiser
from gsd_cli.core.device import autocast, cast_for_autocast, choose_precision

CPU = torch.device("cpu")


class Clock:
    """A clock that moves when a pass is made: by `fp32` or `bf16` seconds."""

    def __init__(self, fp32: float, bf16: float):
        self.now, self.seconds, self.passes = 0.0, {False: fp32, True: bf16}, 0

    def perf_counter(self) -> float:
        return self.now

    def train(self) -> None:
        low = torch.is_autocast_enabled("cpu")
        assert not low or torch.get_autocast_dtype("cpu") == torch.bfloat16
        # the first pass of either loads kernels
        self.now += self.seconds[low] * (50 if self.passes < 2 else 1)
        self.passes += 1


@pytest.mark.parametrize(
    ("fp32", "bf16", "wanted", "gain"),
    [(1.0, 0.5, "bf16", 2.0), (1.0, 1.0, "fp32", 1.0), (1.0, 0.9, "fp32", 1.11), (1.0, 20.0, "fp32", 0.05)],
)
def test_a_cpu_takes_bf16_where_it_is_clearly_faster(
    fp32: float, bf16: float, wanted: str, gain: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(fp32, bf16)
    monkeypatch.setattr(device, "time", clock)
    assert choose_precision("auto", CPU, clock.train) == (wanted, pytest.approx(gain, rel=0.01))


@pytest.mark.parametrize("given", ["fp32", "bf16", "fp16"])
def test_what_is_given_is_taken_untried(given: str) -> None:
    def train() -> None:
        raise AssertionError("nothing is to be tried")

    chosen, gain = choose_precision(given, CPU, train)
    assert chosen == given
    assert math.isnan(gain)


@pytest.mark.parametrize(("native", "wanted"), [(True, "bf16"), (False, "fp32")])
def test_a_gpu_that_only_emulates_bf16_takes_fp32(native: bool, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert choose_precision("auto", torch.device("cuda"), lambda: None)[0] == wanted


def test_weights_cast_ahead_give_what_autocast_gives(toy_teacher: Denoiser) -> None:
    cast = cast_for_autocast(toy_teacher, "bf16")
    assert cast_for_autocast(toy_teacher, "fp32") is toy_teacher
    kinds = {type(m): m.weight.dtype for m in cast.modules() if hasattr(m, "weight")}
    assert kinds[torch.nn.Conv2d] == kinds[torch.nn.Linear] == torch.bfloat16
    assert kinds[torch.nn.GroupNorm] == torch.float32
    x, sigma = torch.randn(3, *toy_teacher.shape), torch.tensor([0.1, 1.0, 10.0])
    with autocast(torch.device("cpu"), "bf16"):
        assert torch.equal(cast(x, sigma), toy_teacher(x, sigma))
        for ours, theirs in zip(cast.encode(x, sigma), toy_teacher.encode(x, sigma), strict=True):
            assert torch.equal(ours, theirs)
    assert next(toy_teacher.parameters()).dtype == torch.float32
