"""Generators of every kind of network as ONNX files: `write_onnx` itself compares each with torch."""

from __future__ import annotations

from collections.abc import Callable
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
from gsd_cli.core.models.generator import Generator, Model, load_model, save_generator
from gsd_cli.core.models.prompts import Prompts, load_prompts, save_prompts
from gsd_cli.core.models.teacher import load_teacher
from gsd_cli.core.models.unet2d import UNET2D
from tests.commands.test_families import ASSUMED, FAMILIES
from tests.support import edm_files, teachers


def text(kind: str) -> Callable[[Path], Path]:
    return lambda folder: teachers.text_pipeline(folder, kind)


def latent(kind: str) -> Callable[[Path], Path]:
    return lambda folder: teachers.latent_pipeline(folder, teachers.unet(teachers.LATENT), kind)


def adm(folder: Path) -> Path:
    """ADM as EDM has it."""
    folder.mkdir()
    edm_files.write_edm(folder / "edm.pkl", "DhariwalUNet", edm_files.ADM)
    return folder / "edm.pkl"


FAST = ("dit",)
"""It has classes, an autoencoder, and tokens in place of maps. An export takes ten seconds."""
KINDS = {
    **FAMILIES,
    "adm": adm,
    "vq": latent("VQModel"),
    "kl": latent("AutoencoderKL"),
    "SD": text("SD"),
    "SDXL": text("SDXL"),
    "SD3": text("SD3"),
    "FLUX-dev": text("FLUX-dev"),
    "SANA": text("SANA"),
}


SIZES = {"SD": (8, 0), "SDXL": (8, 6), "SD3": (10, 12), "FLUX-dev": (10, 8), "SANA": (8, 0)}
"""The sizes of a token's and of a whole text's vectors."""


def prompts(kind: str, path: Path) -> Path:
    """A file of five random texts for `teachers.text_pipeline`."""
    generator = torch.Generator().manual_seed(3)
    token, whole = SIZES[kind]
    tensors = {"embeddings": torch.randn(5, teachers.TOKENS, token, generator=generator)}
    if whole:
        tensors["pooled"] = torch.randn(5, whole, generator=generator)
    if kind == "SDXL":
        tensors["time_ids"] = torch.full((5, 6), 64.0)
    if kind == "SANA":
        tensors["mask"] = (torch.arange(teachers.TOKENS) < torch.arange(5, 10)[:, None]).float()
    return save_prompts(path, Prompts(tuple("abcde"), Condition(**tensors), "toy"), half=False)


def build_model(name: str, folder: Path) -> Model:
    """A generator that is the untrained teacher of a kind."""
    place = KINDS[name](folder / "teacher")
    texts = prompts(name, folder / "p.safetensors") if name in SIZES else None
    teacher = load_teacher(str(place), assume=ASSUMED.get(name), prompts=texts)
    generator = Generator(teacher.denoiser, 2.5, teacher.autoencoder)
    card = {"kind": "generator", "classes": list(teacher.class_names)}
    save_generator(generator, folder / "generator", card, "# A toy\n", half=False, prompts=teacher.prompts)
    return load_model(str(folder / "generator"))


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
