"""Streams that are closed, small, dumb or terminals; locales that cannot say it all."""

from __future__ import annotations

import os
import pty
import re
import select
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl

import pytest
from PIL import Image

from tests.faults.conftest import require_refusal
from tests.support.shell import Shell
from tests.support.warm import Running

SAMPLE = ("sample", "--model", "run", "-N", "2")


@contextmanager
def terminal(columns: int = 80) -> Iterator[tuple[int, str]]:
    """A terminal: its other end, and its name."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    try:
        yield ours, os.ttyname(theirs)
    finally:
        os.close(ours)
        os.close(theirs)


def shown(running: Running, ours: int) -> tuple[int, str]:
    """The exit code, and all that the terminal showed."""
    parts = []
    while running.alive or select.select([ours], [], [], 0.2)[0]:
        if select.select([ours], [], [], 0.05)[0]:
            parts.append(os.read(ours, 65536))
    return running.wait().returncode, b"".join(parts).decode()


@pytest.mark.fault(16, "a terminal as stdin where a pipe is needed")
def test_a_picture_is_not_read_from_a_terminal(desk: Shell) -> None:
    with terminal() as (ours, name):
        code, text = shown(desk.running("edit", "-", "--model", "run", "--direction", "pc0", terminal=name), ours)
    assert code == 2
    assert "stdin is a terminal" in text and "hint:" in text


@pytest.mark.slow
@pytest.mark.fault(16, "closed stdin, stdout and stderr")
@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_closed_streams(closed: tuple[int, ...], desk: Shell) -> None:
    redirected = " ".join(f"{number}>&-" for number in closed)
    done = desk.sh(f"gsd {' '.join(SAMPLE)} -o out {redirected}")
    assert done.returncode == (8 if 1 in closed else 0), done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert len(list((desk.folder / "out").glob("*.png"))) == 2  # the work is done, whoever listens


@pytest.mark.fault(16, "nothing, text, half an image on stdin")
@pytest.mark.parametrize("given", [b"", b"text", b"\x89PNG\r\n\x1a\n\x00\x00"], ids=["nothing", "text", "half"])
def test_what_is_no_picture_on_stdin_is_named_as_what_it_is(given: bytes, desk: Shell) -> None:
    done = desk.running("edit", "-", "--model", "run", "--direction", "pc0", input=given).wait()
    require_refusal(done, 3, "- is not an image")
    assert b"0x" not in done.stderr and b"BytesIO" not in done.stderr


@pytest.mark.slow
@pytest.mark.fault(16, "the reader of --json goes away")
def test_a_reader_that_never_read(desk: Shell) -> None:
    done = desk.sh("gsd sample --model run -N 2 -o out --json | true; echo ${PIPESTATUS[0]}")
    assert done.stdout == b"0\n"
    assert b"Traceback" not in done.stderr and b"error" not in done.stderr


QUIET = [
    {"TERM": "dumb"},
    {"NO_COLOR": "1", "TERM": "xterm-256color"},
    {"TERM": "xterm-256color", "LC_ALL": "C", "LANG": "C"},
    {},
]


@pytest.mark.fault(17, "a terminal of 20 columns: dumb, NO_COLOR, LC_ALL=C, plain")
@pytest.mark.parametrize("changed", QUIET, ids=str)
@pytest.mark.parametrize(
    "arguments",
    [SAMPLE, ("sample", "--lr", "1"), ("distill", "--list-teachers"), ("distill", "--help"),
     ("bench", "--model", "run", "--compare", "ddim-2", "--metrics", "time")],
    ids=["sample", "wrong", "table", "help", "bench"],
)  # fmt: skip
def test_small_and_dumb_terminals(arguments: tuple[str, ...], changed: dict[str, str], desk: Shell) -> None:
    with terminal(20) as (ours, name):
        environment = {"COLUMNS": "20", "TERM": "xterm", **changed}
        code, text = shown(desk.running(*arguments, env=environment, terminal=name), ours)
    assert code == (2 if "--lr" in arguments else 0), text
    assert "Traceback" not in text
    if changed.get("TERM") == "dumb":
        assert "\x1b" not in text
    if "NO_COLOR" in changed:  # no colours; a cursor may move
        assert not re.search(r"\x1b\[[0-9;]*(3[0-7]|4[0-7]|9[0-7])[0-9;]*m", text)


@pytest.mark.fault(17, "a latin-1 or C locale, with names that it cannot say")
@pytest.mark.parametrize(
    "changed",
    [{"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=str,
)
def test_a_narrow_locale(changed: dict[str, str], desk: Shell) -> None:
    folder = desk.folder / "bilder 猫"
    folder.mkdir()
    Image.new("L", (16, 16), 3).save(folder / "ü.png")
    (folder / "猫😀.png").write_text("text")
    (folder / os.fsdecode(b"\xff\xfe.png")).write_text("text")
    done = desk.gsd("prepare", "bilder 猫", "--size", "16", "-o", "ü.zip", "--skip-bad", env=changed)
    text = done.stderr.decode("latin-1")
    assert done.returncode == 0, text
    assert text.count("skipped") == 2 and "Traceback" not in text
    assert done.stdout.decode().strip() == "ü.zip"


@pytest.mark.fault(17, "a pipe, with every sign that a terminal would take colours")
def test_a_pipe_gets_no_escape_codes(desk: Shell) -> None:
    wishes = {"TERM": "xterm-256color", "COLORTERM": "truecolor", "CLICOLOR_FORCE": "0"}
    for arguments in (SAMPLE, ("distill", "--list-teachers"), ("sample", "--help"), ("sample", "--lr", "1")):
        done = desk.running(*arguments, env=wishes).wait()
        assert b"\x1b" not in done.stdout + done.stderr, done.stderr
