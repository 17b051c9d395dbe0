"""Every kind of diffusion, end to end: distilled for two steps, sampled, walked, inverted, edited, measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gsd_cli.base.storage import read_json
from gsd_cli.catalogue.families import find_family
from tests.support.kinds import ASSUMED, FAMILIES, SIDES
from tests.support.shell import Shell

SHORT = ("--steps", "2", "--batch-size", "2", "--eval-samples", "16", "--adversarial", "off")


LONG = {"score-sde", "denoising-diffusion-pytorch", "guided-diffusion", "learned-sigma", "edm-dpm", "edm-file"}
"""They take up to a minute; other tests compare these networks and schedules with their originals."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in FAMILIES]
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
