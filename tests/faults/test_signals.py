"""SIGINT, SIGTERM, SIGHUP: the step ends and state is saved; the first two twice, out at once. Nothing half-written."""

from __future__ import annotations

import os
import pty
import select
import shlex
import signal
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gsd_cli.core.training.checkpoint import CheckpointStore
from tests.faults.conftest import leftovers, require_refusal, wait_for
from tests.support.shell import DISTILL, IMAGES, Shell

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
MANY = ("sample", "--model", "run", "--seeds", "0-3999", "-o", "many", "--batch-size", "8")
BENCH = (
    "bench", "--model", "run", "--compare", "ddim-100", "-N", "64", "--metrics", "fd", "--features", "toy-features",
    "--batch-size", "8",
)  # fmt: skip
INVERT = ("interpolate", "example:bag", "seed:1", "--model", "run", "--invert-steps", "100000", "-o", "x.png")


@pytest.mark.fault(2, "a signal to gsd sample, bench and interpolate")
@pytest.mark.parametrize("number", [*CODES, signal.SIGHUP])
@pytest.mark.parametrize(
    ("arguments", "sign"),
    [
        (MANY, "many/seed-00000020.png"),
        (("sample", "--model", "run", "-N", "60000", "-o", "x.npz"), ".tmp-*.npz"),
        (BENCH, "home/cache/baselines/*/*.npz"),
        (INVERT, None),
    ],
    ids=["sample to a folder", "sample to a file", "bench", "interpolate"],
)
def test_stopped_within_seconds_and_told_how_to_go_on(
    arguments: tuple[str, ...], sign: str | None, number: signal.Signals, desk: Shell
) -> None:
    running = desk.running(*arguments)
    wait_for(lambda: list(desk.folder.glob(sign)) if sign else b"->" in running.streams[2].read_bytes(), running)
    running.send(number)
    begun = time.monotonic()
    done = running.wait(60)
    text = done.stderr.decode()
    assert done.returncode == 128 + number, text
    assert time.monotonic() - begun < 20
    assert not done.stdout
    assert "stopped" in text and "error" not in text and "Traceback" not in text
    assert shlex.split(text.split("resume with: ")[1].splitlines()[0]) == ["gsd", *arguments]
    assert not leftovers(desk.folder)
    assert not list(desk.folder.glob("x.*"))
    require_whole_pictures(desk.folder / "many")


@pytest.mark.fault(3, "SIGINT twice, to gsd distill, sample, prepare and bench")
@pytest.mark.parametrize(
    ("arguments", "sign"),
    [
        ((*DISTILL, "--steps", "2000", "-o", "long"), "long/metrics.jsonl"),
        (MANY, "many/seed-00000020.png"),
        (("prepare", str(IMAGES), "--size", "256", "-o", "large.zip", "--workers", "1"), ".large.zip.part-*/*"),
        (BENCH, "home/cache/baselines/*/*.npz"),
    ],
    ids=["distill", "sample", "prepare", "bench"],
)
def test_the_second_signal_leaves_at_once(arguments: tuple[str, ...], sign: str, desk: Shell) -> None:
    running = desk.running(*arguments)
    wait_for(lambda: list(desk.folder.glob(sign)), running)
    begun = time.monotonic()
    running.send(signal.SIGINT)
    running.send(signal.SIGINT)
    done = running.wait(60)
    assert done.returncode == 130, done.stderr.decode()
    assert time.monotonic() - begun < 5
    assert not done.stdout and b"Traceback" not in done.stderr
    assert not (desk.folder / "large.zip").exists()
    require_whole_pictures(desk.folder / "many")
    require_whole_pictures(desk.folder / "long" / "samples")
    assert CheckpointStore(desk.folder / "long" / "checkpoints").latest()[1] == []
    for cached in (desk.folder / "home" / "cache").rglob("[!.]*.npz"):
        assert np.isfinite(np.load(cached)["features"]).all()


@pytest.mark.fault(2, "a terminal that is closed under gsd distill")
def test_a_closed_terminal_saves_the_run(desk: Shell) -> None:
    """The shell and the kernel send a SIGHUP each, and what is written to the terminal from then on is an error."""
    ours, theirs = pty.openpty()
    running = desk.running(*DISTILL, "--steps", "2000", "-o", "long", terminal=os.ttyname(theirs))

    def begun() -> bool:
        if select.select([ours], [], [], 0)[0]:
            os.read(ours, 65536)
        return (desk.folder / "long" / "metrics.jsonl").exists()

    wait_for(begun, running)
    os.close(theirs)
    os.close(ours)
    running.send(signal.SIGHUP)
    running.send(signal.SIGHUP)
    assert running.wait(60).returncode == 129
    path, damaged = CheckpointStore(desk.folder / "long" / "checkpoints").latest()
    assert path is not None and not damaged
    assert (desk.folder / "long" / "generator" / "gsd.json").exists()


@pytest.mark.fault(2, "a signal to a process that waits for others that never come")
@pytest.mark.parametrize("number", [*CODES, signal.SIGHUP])
def test_the_wait_for_other_processes_is_said_and_can_be_ended(number: signal.Signals, desk: Shell) -> None:
    """A launcher's variables left in the environment: the main thread is deaf, in the rendezvous of PyTorch."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    left = {"WORLD_SIZE": "4", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    running = desk.running("sample", "--model", "run", "-N", "2", "-o", "pod", env=left)
    wait_for(lambda: b"waiting for 3 other processes" in running.streams[2].read_bytes(), running)
    said = running.streams[2].read_text()
    assert all(f"{name}" in said for name in ("RANK=0", "WORLD_SIZE=4", "MASTER_ADDR", port))
    wait_for(lambda: _listens(int(port)), running)  # it is in there
    begun = time.monotonic()
    running.send(number)
    done = running.wait(30)
    assert done.returncode == 128 + number, done.stderr.decode()
    assert time.monotonic() - begun < 5
    assert b"resume with: gsd sample" in done.stderr and b"Traceback" not in done.stderr
    assert not (desk.folder / "pod").exists()


@pytest.mark.fault(2, "the port of a run of several processes is taken")
def test_an_address_that_cannot_be_used_is_said(desk: Shell) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        left = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        left["MASTER_PORT"] = str(taken.getsockname()[1])
        done = desk.gsd("sample", "--model", "run", "-N", "2", "-o", "pod", env=left)
    require_refusal(done, 2, "cannot connect the 2 processes", "MASTER_PORT", "env -u RANK")
    assert not (desk.folder / "pod").exists()


@pytest.mark.fault(2, "variables of a launcher left over, for commands that share no work and for a world of one")
def test_a_process_that_is_alone_prints_its_result(desk: Shell) -> None:
    pod = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "RANK": "3"}
    done = desk.gsd("sample", "--model", "run", "-N", "1", "-o", "one.png", env=pod | {"WORLD_SIZE": "1"})
    assert (done.returncode, done.stdout) == (0, b"one.png\n"), done.stderr.decode()
    walk = ("interpolate", "seed:1", "seed:2", "--model", "run", "--frames", "2", "-o", "strip.png")
    done = desk.gsd(*walk, env=pod | {"WORLD_SIZE": "4"})
    assert (done.returncode, done.stdout) == (0, b"strip.png\n"), done.stderr.decode()
    assert b"does not share its work" in done.stderr


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_under_nohup_a_hangup_is_nothing(desk: Shell) -> None:
    script = """
import os, signal
from gsd_cli.base.signals import StopRequest
for number, comes in ((signal.SIGHUP, False), (signal.SIGTERM, True)):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = StopRequest()
    stop.install()
    os.kill(os.getpid(), number)
    assert stop() is comes
"""
    done = desk.python(script)
    assert done.returncode == 0, done.stderr.decode()


def require_whole_pictures(folder: Path) -> None:
    for path in folder.glob("[!.]*.png"):
        with Image.open(path) as picture:
            picture.load()
