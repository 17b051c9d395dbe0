"""Ctrl-C and SIGTERM: saved, resumable, identical to an uninterrupted run."""

from __future__ import annotations

import shlex
import signal
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from tests.support.shell import DISTILL, Shell, wait_for

WEIGHTS = "generator/diffusion_pytorch_model.safetensors"


STEPS = "24"


@pytest.fixture(scope="module")
def untouched(workshop: Shell) -> Path:
    """The weights of an uninterrupted run."""
    done = workshop.gsd(*DISTILL, "--steps", STEPS, "-o", "untouched")
    assert done.returncode == 0, done.stderr.decode()
    return workshop.folder / "untouched" / WEIGHTS


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
@pytest.mark.fault(2, "a signal to gsd distill")
@pytest.mark.fault(7, "gsd distill stopped and resumed")
def test_a_stopped_run_resumes_to_the_same_weights(
    number: signal.Signals, code: int, workshop: Shell, untouched: Path
) -> None:
    run = workshop.folder / f"stopped-{code}"
    process = workshop.start(*DISTILL, "--steps", STEPS, "-o", run.name)
    wait_for(run / "metrics.jsonl")
    time.sleep(0.2)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    text = err.decode()
    assert process.returncode == code, text
    assert not out
    assert "stopped, state saved" in text
    assert "error" not in text
    saved = max((run / "checkpoints").glob("step-*"))
    stopped_at = int(saved.name.removeprefix("step-"))
    assert 0 < stopped_at < int(STEPS)

    hint = text.split("resume with: ")[1].splitlines()[0]
    resumed = workshop.gsd(*shlex.split(hint)[1:])
    assert resumed.returncode == 0, resumed.stderr.decode()
    assert f"resumed at step {stopped_at}" in resumed.stderr.decode()
    mine, theirs = load_file(run / WEIGHTS), load_file(untouched)
    assert mine.keys() == theirs.keys()
    assert all((mine[key] == theirs[key]).all() for key in mine)
