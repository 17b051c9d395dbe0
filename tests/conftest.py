"""Fixtures that any test may use: one tiny teacher, one tiny data set, everything on one thread."""

from __future__ import annotations

import copy
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from gsd_cli.core.models.beta_schedule import BetaSchedule
from gsd_cli.core.models.denoiser import Denoiser
from gsd_cli.core.models.diffusers_folder import load_denoiser, save_denoiser
from gsd_cli.core.training.unets import build_unet
from gsd_cli.data.dataset_writers import ArchiveWriter
from gsd_cli.data.png import encode_png
from tests.support.shell import DISTILL, IMAGES, Shell

pytest_plugins = ["tests.support.reliability"]

torch.set_num_threads(1)
if hasattr(signal, "SIGHUP"):  # commands leave it ignored where it is, as under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `gpu` on machines without one."""
    if item.get_closest_marker("gpu") is not None and not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def toy_teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder of a random 16 x 16 grey teacher. Read only: copy it before changing it."""
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("teacher") / "toy"
    net = build_unet("tiny", 16, 1)
    save_denoiser(Denoiser(net, BetaSchedule.linear()), folder, half=False)
    return folder


@pytest.fixture(scope="session")
def _toy_teacher_once(toy_teacher_folder: Path) -> Denoiser:
    return load_denoiser(toy_teacher_folder)


@pytest.fixture
def toy_teacher(_toy_teacher_once: Denoiser) -> Denoiser:
    """The toy teacher, loaded; each test gets its own copy."""
    return copy.deepcopy(_toy_teacher_once)


@pytest.fixture(scope="session")
def toy_images() -> np.ndarray:
    """uint8 [12, 16, 16, 1]: smooth bumps, each at another place."""
    grid = np.arange(16)
    centres = [(3 + 3 * (i % 4), 3 + 4 * (i // 4)) for i in range(12)]
    bumps = [np.exp(-((grid[:, None] - r) ** 2 + (grid[None] - c) ** 2) / 12) for r, c in centres]
    return (np.stack(bumps)[..., None] * 255).round().astype(np.uint8)


@pytest.fixture(scope="session")
def toy_archive_path(tmp_path_factory: pytest.TempPathFactory, toy_images: np.ndarray) -> Path:
    """A prepared zip of `toy_images`, labels 0..2."""
    path = tmp_path_factory.mktemp("data") / "toy.zip"
    writer = ArchiveWriter(path)
    for i, image in enumerate(toy_images):
        writer.add(encode_png(image), i % 3)
    writer.close({"source": "toy"})
    return path


@pytest.fixture
def quick_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fit layouts of the isometric term to few images."""
    monkeypatch.setattr("gsd_cli.core.distillation.fit_sources.IMAGES", 64)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """An empty folder to work in."""
    return Shell(tmp_path)


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A toy teacher and a run distilled from it, made once by gsd's own commands."""
    shell = Shell(tmp_path_factory.mktemp("workshop"))
    prepared = shell.gsd(
        "prepare", str(IMAGES), "--size", "16", "-o", "toy.zip",
        "--fit-teacher", "tiny", "--fit-features", "--fit-steps", "6",
    )  # fmt: skip
    assert prepared.returncode == 0, prepared.stderr.decode()
    assert prepared.stdout.decode().split() == ["toy.zip", "toy-features", "toy.toy.npz", "toy-teacher"]
    distilled = shell.gsd(*DISTILL, "--steps", "12", "-o", "run")
    assert distilled.returncode == 0, distilled.stderr.decode()
    assert distilled.stdout.decode().split() == ["run/generator"]
    return shell
