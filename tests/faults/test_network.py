"""Servers that hang, networks that are not asked for, and a token that stays where it is."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gsd_cli.base.download import fetch_file
from gsd_cli.base.errors import GsdError
from tests.support import teachers
from tests.support.hub import serve
from tests.support.shell import Shell

TOKEN = "hf_" + "S3cretS3cret" * 3


@contextmanager
def silent_server() -> Iterator[str]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.fault(20, "a server that takes the connection and says nothing, to a download by URL")
def test_a_silent_server_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gsd_cli.base.download.TIMEOUT", 0.5)
    before = time.monotonic()
    with silent_server() as url, pytest.raises(GsdError, match="timed out") as caught:
        fetch_file(tmp_path / "cache" / "x.pt", f"{url}/x.pt", "0" * 64, "x", "hint", offline=False)
    assert caught.value.code == 4
    assert time.monotonic() - before < 20
    assert not list((tmp_path / "cache").iterdir())
    assert socket.getdefaulttimeout() is None


@pytest.mark.slow
@pytest.mark.fault(20, "a server that takes the connection and says nothing, to the hub's client")
def test_a_silent_hub_is_exit_4(shell: Shell) -> None:
    with silent_server() as url:
        online = {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0"}
        done = shell.gsd("distill", "--teacher", "someone/toy", "--steps", "1", env=online)
    assert done.returncode == 4, done.stderr.decode()
    assert b"hint: " in done.stderr and b"Traceback" not in done.stderr


def test_the_token_is_sent_to_the_hub_and_written_nowhere(shell: Shell) -> None:
    """A run from a hub that asks for a token; then one that fails."""
    folder = teachers.flat(shell.folder / "served", teachers.unet(teachers.SMALL))
    with serve({"someone/toy": folder}) as hub:
        online = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN, "GSD_DEBUG": "1"}
        short = ("--steps", "2", "--batch-size", "2", "--eval-samples", "16")
        run = shell.gsd("distill", "--teacher", "someone/toy", *short, "-o", "run", "-v", "--json", env=online)
        assert run.returncode == 0, run.stderr.decode()
        assert f"Bearer {TOKEN}" in hub.tokens
        failed = shell.gsd("distill", "--teacher", "someone/nothing", *short, "-o", "none", env=online)
        assert failed.returncode == 4
    said = run.stdout + run.stderr + failed.stdout + failed.stderr
    assert TOKEN.encode() not in said
    for path in shell.folder.rglob("*"):
        if path.is_file():
            assert TOKEN.encode() not in path.read_bytes(), path
    assert json.loads(run.stdout)["outputs"] == ["run/generator"]


WATCHED = """
import os, sys
asked = []
sys.addaudithook(lambda name, args: asked.append((name, args)) if name in
                 ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto") else None)
from gsd_cli.cli.app import main
import gsd_cli.api
for words in (
    ["sample", "--model", "run", "-N", "2", "-o", "out"],
    ["distill", "--teacher", "toy-teacher", "--data", "toy.zip", "--features", "toy-features", "--steps", "2",
     "--batch-size", "8", "--eval-samples", "16", "-o", "new"],
    ["bench", "--model", "run", "--compare", "ddim-2", "--metrics", "time"],
    ["edit", "seed:1", "--model", "run", "--direction", "pc0", "--fit-samples", "64", "-o", "y.png"],
    ["prepare", "toy.zip", "--size", "8", "-o", "small.zip"],
    ["sample", "--dry-run"], ["sample", "--help"], ["distill", "--list-teachers"],
):
    sys.argv = ["gsd", *words]
    code = main()
    if code:
        os._exit(code)
sys.stderr.write(f"asked: {asked}\\n")
"""


def test_nothing_is_asked_of_the_network_unless_it_is_asked_for(desk: Shell) -> None:
    """Every socket call of a process that imports everything and runs commands on local files: none."""
    done = desk.python(WATCHED, env={"HF_HUB_OFFLINE": "0"})
    assert done.returncode == 0, done.stderr.decode()
    assert "asked: []" in done.stderr.decode()
