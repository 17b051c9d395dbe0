"""Runs and generators of an earlier version still work. tests/assets/earlier-run.zip is from commit 54aa988.

It was made with: gsd distill --teacher teacher --data images.zip --steps 3 --batch-size 4 --eval-samples 16
--precision fp32 --seed 5 -o run; gsd sample --model run -N 2 -o before.npz
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.support.shell import Shell

FIXTURE = Path(__file__).parent / "assets" / "earlier-run.zip"
DISTILL = ("distill", "--teacher", "teacher", "--data", "images.zip", "--batch-size", "4", "--eval-samples", "16")


@pytest.fixture
def earlier(shell: Shell) -> Shell:
    with zipfile.ZipFile(FIXTURE) as stored:
        stored.extractall(shell.folder)
    return shell


def test_a_generator_gives_the_same_images(earlier: Shell) -> None:
    done = earlier.gsd("sample", "--model", "run", "-N", "2", "-o", "now.npz")
    assert done.returncode == 0, done.stderr.decode()
    before, now = (np.load(earlier.folder / name)["images"].astype(int) for name in ("before.npz", "now.npz"))
    assert np.abs(before - now).max() <= 1  # another processor may round otherwise


def test_a_run_is_resumed(earlier: Shell) -> None:
    done = earlier.gsd(*DISTILL, "--steps", "4", "--seed", "5", "-o", "run")
    assert done.returncode == 0, done.stderr.decode()
    assert "resumed at step 3" in done.stderr.decode()
    card = json.loads((earlier.folder / "run/generator/gsd.json").read_text())
    assert card["steps"] == 4
    rows = [json.loads(line) for line in (earlier.folder / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "fd" in row][-1] == 4


def test_a_finished_run_is_known_before_torch_is_loaded(earlier: Shell) -> None:
    script = (
        "import sys\n"
        "from gsd_cli.cli.app import main\n"
        "code = main(sys.argv[1:])\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)\n"
        "sys.exit(code)\n"
    )
    done = earlier.python(script, *DISTILL, "--steps", "3", "--seed", "5", "-o", "run")
    assert done.returncode == 0, done.stderr.decode()
    assert "nothing to do" in done.stderr.decode()
    assert done.stdout.decode().split() == ["run/generator"]
