"""Every kind of diffusion, end to end: distilled for two steps, sampled, walked, inverted, edited, measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from diffusers import (
    DDPMScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    ScoreSdeVeScheduler,
)

from gsd_cli.base.storage import read_json
from gsd_cli.catalogue.families import find_family
from tests.support import edm_files, teachers
from tests.support.shell import Shell

SHORT = ("--steps", "2", "--batch-size", "2", "--eval-samples", "16", "--adversarial", "off")


def flow(folder: Path) -> Path:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return teachers.with_scheduler(folder, teachers.unet(teachers.SMALL), scheduler)


def score_sde(folder: Path) -> Path:
    return teachers.with_scheduler(folder, teachers.unet(teachers.NCSNPP), ScoreSdeVeScheduler(sigma_max=50.0))


def learned_sigma(folder: Path) -> Path:
    scheduler = DDPMScheduler(variance_type="learned_range")
    return teachers.with_scheduler(folder, teachers.unet(teachers.SMALL, out_channels=2), scheduler)


def edm(folder: Path) -> Path:
    return teachers.with_scheduler(folder, teachers.unet(teachers.SMALL), EDMEulerScheduler(sigma_data=0.6))


def edm_dpm(folder: Path) -> Path:
    scheduler = EDMDPMSolverMultistepScheduler(prediction_type="v_prediction", solver_order=3)
    return teachers.with_scheduler(folder, teachers.unet(teachers.SMALL), scheduler)


def ddp(folder: Path) -> Path:
    folder.mkdir()
    return teachers.ddp_file(folder / "model-1.pt")


def song(folder: Path) -> Path:
    """The file of a network of EDM's with classes."""
    arguments = {**edm_files.TINY, "img_resolution": 16, "in_channels": 1, "out_channels": 1, "label_dim": 2}
    folder.mkdir()
    edm_files.write_edm(folder / "edm.pkl", arguments=arguments | {"augment_dim": 9})
    return folder / "edm.pkl"


def guided(folder: Path) -> Path:
    folder.mkdir()
    return teachers.guided_file(folder / "x.pt", widths=(32, 32), attends=())


ASSUMED = {"denoising-diffusion-pytorch": "size=16", "guided-diffusion": "eps,linear,size=8,heads=16,order=split"}
"""What `--assume` says of the files of bare weights."""
SIDES = {"guided-diffusion": (8, 8)}  # its norms need 32 channels
FAMILIES: dict[str, Callable[[Path], Path]] = {
    "flow": flow, "learned-sigma": learned_sigma, "dit": teachers.dit_pipeline, "edm": edm, "edm-dpm": edm_dpm,
    "score-sde": score_sde,
    "denoising-diffusion-pytorch": ddp, "guided-diffusion": guided, "edm-file": song,
}  # fmt: skip
"""Writes a small teacher of 16 x 16 images (but for SIDES) into a folder, and returns what `--teacher` takes."""


LARGE = {"score-sde", "denoising-diffusion-pytorch", "guided-diffusion"}
"""Their smallest networks take a minute; other tests compare these networks with their originals."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in FAMILIES]
)
def test_all_commands(shell: Shell, name: str) -> None:
    teacher = FAMILIES[name](shell.folder / "teacher")
    assumed = ("--assume", ASSUMED[name]) if name in ASSUMED else ()

    def run(*words: str) -> bytes:
        done = shell.gsd(*words)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    run("distill", "--teacher", str(teacher), *assumed, *SHORT, "-o", "run")
    run("sample", "--model", "run", "-N", "3", "-o", "x.npz")
    assert np.load(shell.folder / "x.npz")["images"].shape[:3] == (3, *SIDES.get(name, (16, 16)))
    run("sample", "--model", "run", "--seeds", "0,1", "-o", "made")
    one, two = sorted(str(path) for path in (shell.folder / "made").glob("*.png"))
    run("interpolate", one, two, "--model", "run", "--frames", "3", "--invert-steps", "3", "-o", "walk.png")
    run("edit", one, "--model", "run", "--direction", "pc0", "--invert-steps", "3", "-o", "edit.png")
    measured = run(
        "bench", "--model", "run", "--compare", "msa-3,ddim-2,heun-2,dpm++-2", "--metrics", "ppl,time",
        "--ppl-samples", "10", "--json",
    )  # fmt: skip
    rows = json.loads(measured)["metrics"]["rows"]
    assert {"msa-3", "ddim-2", "heun-2", "dpm++-2"} <= rows.keys()
    card = (shell.folder / "run" / "generator" / "README.md").read_text()
    assert ("CC BY-NC-SA" in card) == (name == "edm-file")
    if teacher.is_file():
        return  # a file has no scheduler's config
    stated, exported = (_scheduler(shell.folder / place) for place in ("teacher", "run/generator"))
    assert find_family(stated) == find_family(exported)
    # a DDIMScheduler names no variance, and a generator is written with diffusers' default
    assert exported.get("variance_type") == stated.get("variance_type", exported.get("variance_type"))


def _scheduler(folder: Path) -> dict:
    (place,) = folder.rglob("scheduler_config.json")
    return read_json(place)
