"""ONNX files of generators: the same images, any batch, an edit and a condition as inputs, and what they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from gsd_cli.base.session import Session
from gsd_cli.compute.random import latents, normal_rows
from gsd_cli.core.export.onnx_file import write_onnx
from gsd_cli.core.export.onnx_generator import OnnxGenerator
from gsd_cli.core.export.torch_file import write_torch
from gsd_cli.core.latents.render import render
from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.few_steps import later_noise, permutation
from gsd_cli.core.models.generator import Generator, Model, load_model, save_generator
from tests.support import teachers

SIGMA = 1.7


def build_model(folder: Path, **changes: Any) -> Model:
    """A generator of random weights, of 8 x 8 images."""
    net = teachers.unet(teachers.TINY, **changes)
    generator = Generator(Denoiser(net, BetaSchedule.linear()), SIGMA)
    card = {"kind": "generator", "teacher": "toy", "classes": ["cat", "dog", "owl"] if changes else []}
    save_generator(generator, folder, card, "# A toy\n", half=False)
    return load_model(str(folder))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="module")
def model(place: Path) -> Model:
    return build_model(place / "generator")


@pytest.fixture(scope="module")
def file(place: Path, model: Model) -> Path:
    write_onnx(model, place / "toy.onnx", "fp32", Session())
    return place / "toy.onnx"


def call(file: Path, **inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (images,) = session.run(["images"], inputs)
    return images


@pytest.mark.parametrize("count", [1, 2, 5])
def test_images_are_those_of_torch_for_any_batch(file: Path, model: Model, count: int) -> None:
    z = latents(range(100, 100 + count), model.generator.latent_shape)
    wanted = render(model.generator, z).clamp(-1, 1).numpy()
    assert np.abs(call(file, z=z.numpy()) - wanted).max() < 1e-5


@pytest.mark.parametrize("rows", [1, 3])
def test_shift_is_an_edit_of_the_bottleneck(file: Path, model: Model, rows: int) -> None:
    z = latents(range(3), model.generator.latent_shape)
    shift = 5 * normal_rows(range(rows), (4, 4, 4), 0, "test")
    wanted = render(model.generator, z, shifts=shift.expand(3, -1, -1, -1)).clamp(-1, 1).numpy()
    assert np.abs(wanted - call(file, z=z.numpy())).max() > 0.01  # the shift does something
    assert np.abs(call(file, z=z.numpy(), shift=shift.numpy()) - wanted).max() < 1e-5


def test_file_describes_itself(file: Path, model: Model) -> None:
    proto = onnx.load(file)
    onnx.checker.check_model(proto, full_check=True)
    assert {imported.domain: imported.version for imported in proto.opset_import}[""] == 20
    facts = {entry.key: entry.value for entry in proto.metadata_props}
    assert facts["format"] == "gsd-onnx/1"
    assert json.loads(facts["latent_shape"]) == json.loads(facts["image_shape"]) == [1, 8, 8]
    assert json.loads(facts["sigma_init"]) == SIGMA
    assert json.loads(facts["value_range"]) == [-1, 1]
    assert facts["weights_fingerprint"] == model.card["weights"]
    assert facts["model_card"] == "# A toy\n"
    assert facts["precision"] == "fp32"
    assert all(facts[name] for name in ("gsd_version", "licence", "teacher", "name"))


def test_shift_without_default_must_be_given(place: Path, model: Model) -> None:
    write_onnx(model, place / "required.onnx", "fp32", Session(), require_shift=True)
    opened = onnxruntime.InferenceSession(str(place / "required.onnx"), providers=["CPUExecutionProvider"])
    assert [given.name for given in opened.get_inputs()] == ["z", "shift"]
    z = torch.zeros(2, *model.generator.latent_shape)
    shift = torch.zeros(1, 4, 4, 4)
    wanted = render(model.generator, z).clamp(-1, 1).numpy()
    (images,) = opened.run(None, {"z": z.numpy(), "shift": shift.numpy()})
    assert np.abs(images - wanted).max() < 1e-5
    assert np.abs(OnnxGenerator(place / "required.onnx")(z).numpy() - wanted).max() < 1e-5


def test_a_generator_of_several_steps_is_one_file(place: Path, model: Model) -> None:
    generator = Generator(model.generator.denoiser, (SIGMA, 0.4))
    save_generator(generator, place / "several", model.card, "", half=False)
    write_onnx(load_model(str(place / "several")), place / "several.onnx", "fp32", Session())
    z = latents(range(3), generator.latent_shape)
    shift = 5 * normal_rows(range(3), (4, 4, 4), 0, "test")
    wanted = render(generator, z, shifts=shift).clamp(-1, 1).numpy()
    assert np.abs(call(place / "several.onnx", z=z.numpy(), shift=shift.numpy()) - wanted).max() < 1e-5
    assert np.abs(call(place / "several.onnx", z=z.numpy()) - wanted).max() > 0.01
    facts = OnnxGenerator(place / "several.onnx").metadata
    assert json.loads(facts["sigmas"]) == [SIGMA, 0.4]


def test_a_torch_file_is_written_before_anything_was_rendered(place: Path, model: Model) -> None:
    """A recorder's tensors must not stay among the constants of the later steps' noise."""
    permutation.cache_clear()
    save_generator(Generator(model.generator.denoiser, (SIGMA, 0.4)), place / "torch", model.card, "", half=False)
    several = load_model(str(place / "torch"))
    assert write_torch(several, place / "several.pt2", Session()).difference.largest < 1e-5
    assert type(later_noise(torch.zeros(1, 1, 8, 8), 1)) is torch.Tensor
