"""Completions in the real shells: names of commands, options, values, runs and files."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import shellingham
import typer

from gsd_cli.base.errors import UsageError
from gsd_cli.cli import completion_scripts as shells
from gsd_cli.cli.flags import commands
from tests.support.shell import Shell

COMPLETIONS = Path(__file__).parents[2] / "completions"
CASES = [
    ("gsd dis", {"distill"}),
    ("gsd distill --teacher ddpm-c", {"ddpm-cifar10", "ddpm-celebahq", "ddpm-church"}),
    ("gsd distill --teacher=ddpm-ci", {"ddpm-cifar10"}),
    ("gsd bench --ablate-preset=", {"quick", "standard", "long", "paper", "sid"}),
    ("gsd distill --preset s", {"standard", "sid"}),
    ("gsd sample --model r", {"runs/one"}),
    ("gsd edit seed:1 --direction pc1", {"pc1", *(f"pc{k}" for k in range(10, 16))}),
    ("gsd bench --compare msa,heun", {"msa,heun-18"}),
    ("gsd prepare fash", {"fashion-mnist"}),
    ("gsd edit pho", {"photo.png"}),
    ("gsd distill --data te", {"teacher"}),
    ("gsd distill --data pho", {"photo.png"}),
]


def need(shell: str) -> str:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"{shell} is not installed (apt-get install {shell})")
    return found


@pytest.fixture
def place(shell: Shell) -> Shell:
    """A folder with a run, a photo and a `gsd` on the path."""
    (shell.folder / "runs/one/generator").mkdir(parents=True)
    (shell.folder / "runs/one/generator/gsd.json").write_text('{"attributes": ["smile"], "classes": ["coat"]}')
    (shell.folder / "photo.png").touch()
    gsd = shell.folder / "bin" / "gsd"
    gsd.parent.mkdir()
    root = Path(__file__).parents[2]
    gsd.write_text(f'#!/bin/sh\nPYTHONPATH={root} exec {sys.executable} -m gsd_cli "$@"\n')
    gsd.chmod(0o755)
    return shell


def test_bash(place: Shell) -> None:
    need("bash")
    script = f"PATH=$PWD/bin:$PATH; source {COMPLETIONS / 'gsd.bash'}\n"
    for line, _ in CASES:
        words = " ".join(f"'{word}'" for word in re.split(r"(?:(?<!=) |(?<!=)(?==)|(?<==)(?!$))", line))
        script += f"COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _gsd_completion gsd\n"
        script += 'echo "${COMPREPLY[*]}"\n'
    done = place.sh(script + "complete -p gsd")
    assert done.returncode == 0, done.stderr.decode()
    *lines, spec = done.stdout.decode().splitlines()
    assert spec == "complete -o default -F _gsd_completion gsd"  # without offers, readline completes files
    for (line, wanted), offered in zip(CASES, lines, strict=True):
        assert set(offered.split()) == (set() if wanted == {"photo.png"} else wanted), line


def test_fish(place: Shell) -> None:
    need("fish")
    asked = "; ".join(f"complete -C '{line}'; echo ==" for line, _ in CASES)
    done = place.sh(f'PATH=$PWD/bin:$PATH fish --no-config -c "source {COMPLETIONS / "gsd.fish"}; {asked}"')
    assert done.returncode == 0, done.stderr.decode()
    answers = done.stdout.decode().split("==\n")
    for (line, wanted), answer in zip(CASES, answers, strict=False):
        whole = f"{line.split()[-1].partition('=')[0]}=" if "=" in line else ""  # fish replaces the whole word
        assert {offered.split("\t")[0] for offered in answer.splitlines()} == {whole + one for one in wanted}, line


def test_zsh(place: Shell) -> None:
    """zsh completes only inside its line editor, so the test types into a terminal."""
    zsh = need("zsh")
    master, slave = pty.openpty()
    environment = place.environment() | {"PATH": f"{place.folder}/bin:{os.environ['PATH']}", "TERM": "dumb"}
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.chdir(place.folder)
        for descriptor in (0, 1, 2):
            os.dup2(slave, descriptor)
        os.execve(zsh, ["zsh", "-f", "-i"], environment)
    os.close(slave)
    try:
        _typed(master, f"fpath=({COMPLETIONS} $fpath); autoload -U compinit; compinit -u -D; echo rea''dy\n", "ready")
        for line, wanted in (
            ("gsd dis\t", "gsd distill "),
            ("gsd distill --preset q\t", "--preset quick "),
            ("gsd distill --teacher ddpm-ci\t", "--teacher ddpm-cifar10 "),
            ("gsd distill --teacher=ddpm-ci\t", "--teacher=ddpm-cifar10 "),
            ("gsd sample --model r\t", "--model runs/one "),
            ("gsd edit pho\t", "photo.png"),
        ):
            assert wanted in _typed(master, line, wanted), line
            assert "cleared" in _typed(master, "\x15echo cle''ared\n", "cleared")
    finally:
        os.write(master, b"\x15exit\n")
        os.close(master)
        os.waitpid(pid, 0)


def _typed(terminal: int, text: str, wanted: str, seconds: float = 30) -> str:
    """Type into the terminal; returns its output up to `wanted`, or until the time is over."""
    os.write(terminal, text.encode())
    seen, end = "", time.monotonic() + seconds
    while wanted not in seen and time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 4096).decode(errors="replace")
    return seen


STARTS = {"bash": ".bashrc", "zsh": ".zshrc", "fish": None}
ASKED = {
    "bash": "bash -i -c 'complete -p gsd'",
    "zsh": "zsh -i -c 'print -- $_comps[gsd]'",
    "fish": "fish -c 'complete -C \"gsd distill --teacher=ddpm-ci\"'",
}
ANSWERS = {"bash": "_gsd_completion gsd", "zsh": "_gsd", "fish": "--teacher=ddpm-cifar10"}


@pytest.mark.parametrize("name", STARTS)
def test_an_installed_completion_works_at_the_next_start(name: str, place: Shell) -> None:
    """Called from each shell, as by a user: gsd detects the shell that started it."""
    need(name)
    home, start = place.folder / "home", STARTS[name]
    home.mkdir(exist_ok=True)
    if start:
        (home / start).write_text("alias mine=true")
    install = f"""PATH=$PWD/bin:$PATH {name} -c 'gsd --install-completion; true'"""
    first, second = place.sh(install), place.sh(install)
    assert b"next start" in first.stderr and len(first.stdout.splitlines()) == (2 if start else 1), first
    assert b"already" in second.stderr and second.stdout == b"", second
    if start:
        mine, ours = (home / start).read_text().splitlines()
        assert mine == "alias mine=true" and str(home) in ours
    asked = place.sh(f"PATH=$PWD/bin:$PATH {ASKED[name]} < /dev/null")
    assert ANSWERS[name] in asked.stdout.decode(), asked
    shown = place.sh(f"PATH=$PWD/bin:$PATH {name} -c 'gsd --show-completion; true'").stdout.decode()
    assert shown == (COMPLETIONS / {"bash": "gsd.bash", "zsh": "_gsd", "fish": "gsd.fish"}[name]).read_text()


def test_an_unknown_shell_is_an_error(place: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shellingham, "detect_shell", lambda: ("tcsh", "/bin/tcsh"))
    with pytest.raises(UsageError, match="tcsh"):
        shells.detect_shell()


def test_a_home_that_cannot_be_written_is_exit_8(place: Shell) -> None:
    (place.folder / "home").write_text("a file")
    done = place.sh("PATH=$PWD/bin:$PATH bash -c 'gsd --install-completion; exit $?'")
    assert done.returncode == 8, done.stderr
    assert b"hint: " in done.stderr


def test_attributes_come_from_the_card_of_the_model(place: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    from gsd_cli.cli.completion import complete_attributes, complete_classes, complete_preserved

    context = cast(typer.Context, SimpleNamespace(params={"model": None}))
    monkeypatch.chdir(place.folder)
    assert complete_attributes(context, "sm") == [("smile", "of attributes")]
    assert complete_attributes(context, "x") == []
    assert [name for name, _ in complete_preserved(context, "width,s")] == ["width,symmetry", "width,smile"]
    assert complete_classes(context, "") == [("coat", "a class")]


def test_completion_loads_nothing_heavy(place: Shell) -> None:
    script = (
        "import atexit, sys\n"
        "sys.argv = ['gsd']\n"
        "heavy = {'pydantic', 'torch', 'diffusers', 'numpy', 'PIL'}\n"
        "atexit.register(lambda: print('loaded', heavy & set(sys.modules)))\n"
        "from gsd_cli.cli.app import main\n"
        "main()\n"
    )
    environment = {"_GSD_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    asked = place.python(script, env=environment | {"_TYPER_COMPLETE_ARGS": "gsd sample --"})
    offered = asked.stdout.decode()
    assert all(f"{one.name}\t" in offered for one in commands()["sample"].flags)
    assert "loaded set()" in offered
