"""Generators of every kind of network as ONNX files: `write_onnx` itself compares each with torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.base.session import Session
from gsd_cli.compute.random import latents
from gsd_cli.core.export.onnx_file import write_onnx
from gsd_cli.core.export.onnx_generator import OnnxGenerator
from gsd_cli.core.export.torch_file import write_torch
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.condition import Condition, seed_conditions
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.generator import Generator, Model, save_generator
from gsd_cli.core.models.prompts import load_prompts
from gsd_cli.core.models.unet2d import UNET2D
from tests.support import teachers
from tests.support.kinds import KINDS, SIZES, build_model

FAST = ("dit",)
"""It has classes, an autoencoder, and tokens in place of maps. An export takes ten seconds."""


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in KINDS]
)
def test_every_kind_is_exported(name: str, tmp_path: Path) -> None:
    model = build_model(name, tmp_path)
    written = write_onnx(model, tmp_path / "x.onnx", "int8" if name == "guided-diffusion" else "fp32", Session())
    opened = OnnxGenerator(written.path)
    assert opened.latent_shape == model.generator.latent_shape
    assert opened.image_shape == model.generator.image_shape
    assert opened.class_names == model.class_names
    if opened.takes_texts:
        with pytest.raises(GsdError, match="texts"):
            opened(torch.zeros(1, *opened.latent_shape))
        opened.give_prompts(load_prompts(model.folder / "prompts.safetensors").condition)
    assert len(opened.conditions) == len(model.generator.conditions)
    z, condition = latents(range(70, 73), opened.latent_shape), seed_conditions(opened.conditions, range(70, 73))
    with torch.no_grad():
        wanted = model.generator(z, condition).clamp(-1, 1)
        other = model.generator(z, opened.conditions.first(3)).clamp(-1, 1)
    difference = (opened(z, condition) - wanted).square().mean().sqrt()
    assert difference < (0.05 if written.precision == "int8" else 1e-3)
    if name in ("dit", "edm-file", *SIZES):  # and the condition does something
        assert (other - wanted).abs().max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dit", "SDXL", "SD3", "FLUX-dev", "SANA", "edm-file"])
def test_programs_of_torch_take_conditions(name: str, tmp_path: Path) -> None:
    written = write_torch(build_model(name, tmp_path), tmp_path / "x.pt2", Session())
    assert written.difference.rms < 1e-5


def test_an_operator_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    """A network that calls one, in an otherwise whole generator."""

    def call(net: Any, x: torch.Tensor, t: torch.Tensor, condition: Condition) -> torch.Tensor:
        return UNET2D.call(net, x, t, condition) + torch.linalg.eigvalsh(x @ x.mT)[..., None]

    generator = Generator(
        Denoiser(teachers.unet(teachers.TINY), BetaSchedule.linear(), kind=replace(UNET2D, call=call)), 2.5
    )
    save_generator(generator, tmp_path / "g", {"kind": "generator"}, "# A toy\n", half=False)
    with pytest.raises(GsdError, match=r"operator aten\._linalg_eigh") as raised:
        write_onnx(Model("toy", tmp_path / "g", generator), tmp_path / "x.onnx", "fp32", Session())
    assert raised.value.code == ExitCode.INPUT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g"]  # nothing half-written
