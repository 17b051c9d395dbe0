"""gsd in pipelines of real shells: other programs, readers that go away, full devices."""

from __future__ import annotations

import shutil

import pytest

from tests.support.shell import Shell

LOAD = "import sys; from PIL import Image; Image.open(sys.stdin.buffer).load()"
SAMPLE = "gsd sample --model run"
IDENTIFY = "identify" if shutil.which("identify") else "test -s"


# few cases, because each process that loads torch takes seconds
@pytest.mark.parametrize(
    "script",
    [
        f"{SAMPLE} -N 2 -o piped/ | xargs -n1 {IDENTIFY}",
        f"{SAMPLE} -N 1 -o - > a.png && python -c '{LOAD}' < a.png && "
        "cat a.png | gsd edit - --model run --direction pc0 --strength 2 --invert-steps 5 -o - > b.png && "
        f"python -c '{LOAD}' < b.png && ! cmp a.png b.png",
        f"mkdir images && {SAMPLE} --seeds 0-9 -o - --format tar | tar x -C images && test $(ls images | wc -l) = 10",
        # the reader goes away: not an error
        f"{SAMPLE} -N 40 -o many/ | head -1 | grep -q seed-00000000",
        f"{SAMPLE} -N 400 -o - --format tar | head -c 1 | wc -c | grep -q 1",
        "gsd distill --help | head -1",
    ],
)
@pytest.mark.fault(16, "pipes whose reader stays or goes away")
def test_pipelines(script: str, workshop: Shell) -> None:
    done = workshop.sh(script)
    assert done.returncode == 0, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert b"error" not in done.stderr


@pytest.mark.parametrize(
    "script", ["edit - --model run --direction pc0 < empty", "edit - --model run --direction pc0 < /dev/null"]
)
def test_an_empty_stdin_is_said_to_be_empty(script: str, workshop: Shell) -> None:
    done = workshop.sh(f": > empty; gsd {script}")
    assert done.returncode == 3, done.stderr.decode()
    assert b"error: - is not an image: stdin is empty\n" in done.stderr


def test_the_figures_of_bench_go_into_jq(workshop: Shell) -> None:
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    bench = "gsd bench --model run --compare msa-5 --metrics time --json"
    done = workshop.sh(f"{bench} | jq -e '.metrics.rows[.metrics.model].calls == 1 and .schema == \"gsd/1\"'")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b"true\n"


@pytest.mark.parametrize(
    "script",
    [f"{SAMPLE} -N 1 -o - > /dev/full", f"{SAMPLE} -N 1 -o - >&-", "gsd --version > /dev/full", "gsd -h > /dev/full",
     "gsd sample -n > /dev/full"],
)  # fmt: skip
@pytest.mark.fault(4, "/dev/full or a closed descriptor as stdout")
def test_bytes_that_cannot_be_written_are_exit_8(script: str, workshop: Shell) -> None:
    done = workshop.sh(script)
    assert done.returncode == 8, done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert b"error: " in done.stderr
    assert b" free)" not in done.stderr  # of a disk that is another one


def test_bytes_on_stdout_are_bytes_only_whatever_libraries_print(workshop: Shell) -> None:
    """Text that a library prints, from Python or to the descriptor, goes to stderr."""
    noisy = (
        "import os, sys\n"
        "from gsd_cli.core.sampling import images as sampling\n"
        "whole = sampling.latents\n"
        "def noisy(*a, **k):\n"
        "    print('NOISE from python'); os.write(1, b'NOISE from fd 1\\n'); os.system('echo NOISE of a child')\n"
        "    return whole(*a, **k)\n"
        "sampling.latents = noisy\n"
        "from gsd_cli.cli.app import main\n"
        "sys.argv = ['gsd', 'sample', '--model', 'run', '-N', '1', '-o', '-']\n"
        "sys.exit(main())\n"
    )
    done = workshop.python(noisy)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.startswith(b"\x89PNG")
    assert b"NOISE" not in done.stdout
    assert done.stderr.count(b"NOISE") == 3


@pytest.mark.fault(17, "no terminal")
def test_without_a_terminal_there_are_no_escape_codes_and_q_is_silent(workshop: Shell) -> None:
    loud = workshop.gsd("sample", "-n", "--lr", "1", env={"TERM": "xterm-256color"})
    assert loud.returncode == 2
    assert b"\x1b" not in loud.stderr
    silent = workshop.gsd("sample", "--model", "run", "-N", "2", "-o", "two.npz", "-q")
    assert silent.stderr == b""
    assert silent.stdout == b"two.npz\n"
