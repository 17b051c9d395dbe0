"""Every kind of diffusion, end to end: distilled for two steps, sampled, walked, inverted, edited, measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from diffusers import EDMDPMSolverMultistepScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler

from gsd_cli.base.storage import read_json
from tests.support import edm_files, teachers
from tests.support.shell import Shell

SHORT = ("--steps", "2", "--batch-size", "2", "--eval-samples", "16", "--adversarial", "off")


def flow(folder: Path) -> Path:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return teachers.with_scheduler(folder, teachers.unet(teachers.SMALL), scheduler)


def edm(folder: Path) -> Path:
    return teachers.with_scheduler(folder, teachers.unet(teachers.SMALL), EDMEulerScheduler(sigma_data=0.6))


def edm_dpm(folder: Path) -> Path:
    scheduler = EDMDPMSolverMultistepScheduler(prediction_type="v_prediction", solver_order=3)
    return teachers.with_scheduler(folder, teachers.unet(teachers.SMALL), scheduler)


def song(folder: Path) -> Path:
    """The file of a network of EDM's with classes, in the place of the folder."""
    arguments = {**edm_files.TINY, "img_resolution": 16, "in_channels": 1, "out_channels": 1, "label_dim": 2}
    edm_files.write_edm(path := folder.with_suffix(".pkl"), arguments=arguments | {"augment_dim": 9})
    return path


FAMILIES: dict[str, Callable[[Path], Path]] = {"flow": flow, "edm": edm, "edm-dpm": edm_dpm, "song": song}
"""Writes a small teacher of 16 x 16 grey images into a folder."""


@pytest.mark.parametrize("name", FAMILIES)
def test_all_commands(shell: Shell, name: str) -> None:
    teacher = FAMILIES[name](shell.folder / "teacher")

    def run(*words: str) -> bytes:
        done = shell.gsd(*words)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    run("distill", "--teacher", teacher.name, *SHORT, "-o", "run")
    run("sample", "--model", "run", "-N", "3", "-o", "x.npz")
    assert np.load(shell.folder / "x.npz")["images"].shape == (3, 16, 16, 1)
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
    generator = shell.folder / "run" / "generator"
    scheduler = "EDMEulerScheduler"
    if teacher.is_dir():
        scheduler = read_json(teacher / "scheduler_config.json")["_class_name"]
    assert read_json(generator / "scheduler_config.json")["_class_name"] == scheduler
    of_nvidia = name == "song"
    card = (generator / "README.md").read_text()
    assert ("CC BY-NC-SA" in card) == of_nvidia and ("UNet2DModel.from_pretrained" in card) != of_nvidia
