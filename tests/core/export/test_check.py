"""What the comparison with torch finds."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.base.session import Session
from gsd_cli.core.export.check import Call, Difference, compare, require_close
from gsd_cli.core.export.exported import LATENT, SHIFT, ExportedGenerator
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import Generator
from tests.support import teachers


@pytest.fixture
def whole() -> ExportedGenerator:
    return ExportedGenerator(Generator(Denoiser(teachers.unet(teachers.TINY), BetaSchedule.linear()), 2.5))


def faithful(whole: ExportedGenerator) -> Call:
    def call(inputs: Mapping[str, Tensor]) -> Tensor:
        z = inputs[LATENT]
        return whole(z, inputs.get(SHIFT, torch.zeros(len(z), *(whole.shift_shape or ()))))

    return call


def test_the_same_function_differs_by_nothing(whole: ExportedGenerator) -> None:
    assert compare(whole, faithful(whole), Session(), leave_out=True) == Difference(0, 0)


def test_it_is_the_generator_clamped(whole: ExportedGenerator) -> None:
    z = 3 * torch.randn(5, 1, 8, 8)
    wanted = whole.generator(z)
    assert wanted.abs().max() > 1
    found = whole(z, torch.zeros(5, *(whole.shift_shape or ())))
    torch.testing.assert_close(found, wanted.clamp(-1, 1), rtol=0, atol=1e-6)


def test_a_shift_that_is_left_out_is_noticed(whole: ExportedGenerator) -> None:
    call = faithful(whole)
    assert compare(whole, lambda inputs: call({LATENT: inputs[LATENT]}), Session(), leave_out=True).largest > 1e-3


@pytest.mark.parametrize("wrong", [0.01, float("nan"), float("inf")])
def test_one_wrong_image_of_the_last_seeds_is_noticed(whole: ExportedGenerator, wrong: float) -> None:
    call, calls = faithful(whole), []

    def last_is_wrong(inputs: Mapping[str, Tensor]) -> Tensor:
        calls.append(len(inputs[LATENT]))
        return call(inputs) + (wrong if len(calls) == 30 else 0)

    found = compare(whole, last_is_wrong, Session(), leave_out=True)
    assert set(calls) > {1}  # batches of several sizes
    assert found.largest == (pytest.approx(wrong, rel=1e-3) if wrong == wrong else torch.inf)
    with pytest.raises(GsdError, match="other images than torch") as raised:
        require_close(found, "fp32", "x.onnx")
    assert raised.value.code == ExitCode.INPUT
