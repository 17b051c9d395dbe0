"""gsd with teachers of every kind, end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gsd_cli.data.dataset import ImageArchive
from tests.support import teachers
from tests.support.hub import COMMIT, serve
from tests.support.shell import Shell

SHORT = ("--steps", "2", "--batch-size", "2", "--eval-samples", "16")


@pytest.mark.slow
def test_the_cifar10_teacher_comes_from_the_hub(shell: Shell) -> None:
    """`gsd distill --teacher ddpm-cifar10` at the full 35.7 M parameters, against a hub on loopback."""
    folder = teachers.flat(shell.folder / "served", teachers.unet(teachers.CIFAR10))
    with serve({"google/ddpm-cifar10-32": folder}) as hub:
        online = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
        brief = ("--steps", "1", "--batch-size", "1", "--eval-samples", "16")  # 35.7 million parameters, three times
        done = shell.gsd("distill", "--teacher", "ddpm-cifar10", *brief, "-o", "run", "--irl", "off", env=online)
    assert done.returncode == 0, done.stderr.decode()
    assert b"fusing/ddpm-cifar10-ema" in done.stderr  # its caution is printed
    card = json.loads((shell.folder / "run" / "generator" / "gsd.json").read_text())
    assert card["teacher_revision"] == COMMIT
    assert json.loads((shell.folder / "run" / "options.json").read_text())["teacher_revision"] == COMMIT
    made = shell.gsd("sample", "--model", "run", "-N", "2", "-o", "x.npz")
    assert made.returncode == 0, made.stderr.decode()
    assert np.load(shell.folder / "x.npz")["images"].shape == (2, 32, 32, 3)


def test_the_table_of_teachers(shell: Shell) -> None:
    done = shell.gsd("distill", "--list-teachers")
    assert done.returncode == 0
    assert done.stdout.decode().split() == [
        "ddpm-fashion", "ddpm-cifar10", "ddpm-celebahq", "ddpm-bedroom", "ddpm-church",
        "ncsnpp-celebahq", "ncsnpp-ffhq", "ncsnpp-bedroom", "ncsnpp-church",
        "dit-imagenet-256", "sd-1.5", "sdxl", "sd3-medium", "sana-0.6b", "flux-schnell",
    ]  # fmt: skip
    as_json = json.loads(shell.gsd("distill", "--list-teachers", "--json").stdout)
    facts = as_json["metrics"]["teachers"]
    assert facts["ddpm-fashion"]["at_hand"] == "bundled"
    assert facts["ddpm-cifar10"] | {"caution": None} == {
        "hub": "google/ddpm-cifar10-32", "size": 32, "parameters": 35_746_307, "licence": "Apache-2.0",
        "caution": None, "statistics": "cifar10-train", "data": None, "data_set": "uoft-cs/cifar10",
        "at_hand": "no",
    }  # fmt: skip
    assert b"12.4" in done.stderr


def test_a_latent_teacher_end_to_end(shell: Shell) -> None:
    teachers.latent_pipeline(shell.folder / "ldm", teachers.unet(teachers.LATENT))
    done = shell.gsd("distill", "--teacher", "ldm", *SHORT, "-o", "run")
    assert done.returncode == 0, done.stderr.decode()
    assert shell.gsd("sample", "--model", "run", "-N", "1", "-o", "one.png").returncode == 0
    with Image.open(shell.folder / "one.png") as image:
        assert image.size == (32, 32)  # decoded: twice the latent's side
    edited = shell.gsd("edit", "one.png", "--model", "run", "--direction", "pc0", "--invert-steps", "3", "-o", "e.png")
    assert edited.returncode == 0, edited.stderr.decode()
    bench = shell.gsd("bench", "--model", "run", "--compare", "ddim-2", "--metrics", "ppl,time", "--ppl-samples", "10")
    assert bench.returncode == 0, bench.stderr.decode()


@pytest.fixture
def labelled(shell: Shell, toy_archive_path: Path) -> Path:
    path = shell.folder / "toy.zip"
    path.write_bytes(toy_archive_path.read_bytes())
    assert ImageArchive(path).labels is not None
    return path


def test_a_class_conditional_teacher_end_to_end(shell: Shell, labelled: Path) -> None:
    """Trained on labelled images, distilled, then sampled by class."""
    fit = shell.gsd(
        "prepare", "toy", "-o", "toy.zip", "--fit-teacher", "tiny", "--conditional", "--fit-steps", "2",
        "--batch-size", "4",
    )  # fmt: skip
    assert fit.returncode == 0, fit.stderr.decode()
    done = shell.gsd("distill", "--teacher", "toy-teacher", *SHORT, "-o", "run")
    assert done.returncode == 0, done.stderr.decode()
    assert b"no real images" not in done.stderr  # the images next to the teacher are its reference

    made = shell.gsd("sample", "--model", "run", "--seeds", "0-5", "--class", "1", "-o", "x.npz")
    assert made.returncode == 0, made.stderr.decode()
    assert np.load(shell.folder / "x.npz")["images"].shape == (6, 16, 16, 1)
    wrong = shell.gsd("sample", "--model", "run", "--class", "3", "-o", "x.npz")
    assert wrong.returncode == 2
    assert b"0 to 2" in wrong.stderr


def test_a_class_needs_a_conditional_model(shell: Shell) -> None:
    done = shell.gsd("sample", "--class", "1", "-N", "1")
    assert done.returncode == 2
    assert b"not class-conditional" in done.stderr


def test_conditional_fitting_needs_labels(shell: Shell, toy_images: np.ndarray) -> None:
    (shell.folder / "photos").mkdir()
    for i, image in enumerate(toy_images):
        Image.fromarray(image[..., 0]).save(shell.folder / "photos" / f"{i}.png")
    done = shell.gsd(
        "prepare", "photos", "--size", "16", "--fit-teacher", "tiny", "--conditional", "--fit-steps", "2"
    )  # fmt: skip
    assert done.returncode == 3
    assert b"no class labels" in done.stderr
