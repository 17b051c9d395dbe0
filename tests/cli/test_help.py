"""Help, and the files that are generated from the option models."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from gsd_cli.cli.flags import commands
from gsd_cli.cli.help import OWN_FLAGS
from gsd_cli.cli.parser import build_parser
from scripts.generate import ROOT, files
from tests.support.shell import Shell


def test_help_and_usage_errors_load_nothing_heavy() -> None:
    script = (
        "import sys; sys.argv = ['gsd', *sys.argv[1:]]\n"
        "from gsd_cli.cli.app import main\n"
        "code = main()\n"
        "heavy = {'torch', 'torchvision', 'diffusers', 'numpy', 'scipy', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "sys.exit(code)\n"
    )
    for arguments, code in ((["--help"], 0), (["distill", "--help"], 0), (["distill", "--lr", "-1"], 2)):
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
        assert done.returncode == code, done.stderr


@pytest.mark.parametrize("command", commands())
def test_help_names_every_option_and_two_examples(command: str, shell: Shell) -> None:
    done = shell.gsd(command, "-h", env={"COLUMNS": "200"})
    text = done.stdout.decode()
    assert done.returncode == 0
    assert text.count("$ gsd") == 2
    for one in commands()[command].flags:
        assert (one.metavar if one.argument else one.name) in text


def test_the_defaults_in_help_are_those_that_hold(shell: Shell) -> None:
    plan = shell.gsd("distill", "-n").stdout.decode()
    holding = tomllib.loads(re.sub(r"(?m)^# (\w+ = )", r"\1", plan))
    shown = {one.public: one.default for one in commands()["distill"].flags}
    assert (shown["batch_size"], shown["fake_lr"], shown["kimg"]) == ("32", "0.0002", "11")
    for name, default in shown.items():
        if default not in (None, "on", "off", "auto"):
            value = holding[name]
            assert (float(default) if isinstance(value, float) else type(value)(default)) == value, name


def test_help_explains_the_words_of_its_options(shell: Shell) -> None:
    text = " ".join(shell.gsd("distill", "--help", env={"COLUMNS": "200"}).stdout.decode().split())
    for word in ("fake score, a denoiser of", "isometric term makes equal steps", "those of quick"):
        assert word in text


def test_version_and_the_list_of_commands(shell: Shell) -> None:
    version = shell.gsd("--version")
    assert version.returncode == 0
    assert version.stdout.decode().startswith("gsd ")
    alone = shell.gsd()
    assert alone.returncode == 2
    assert all(name in alone.stdout.decode() for name in commands())
    known = {name for param in build_parser(lambda _: None).params for name in param.opts}
    assert known | {"-h", "--help"} == {name for one in OWN_FLAGS for name in one.names}  # what the list shows


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_generated_files_are_up_to_date(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == files()[path], "run: python -m scripts.generate"


def test_stale_flags_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = commands()
    monkeypatch.setattr("gsd_cli.cli.flags.fingerprint", lambda: "other")
    assert commands() == stored


def test_the_first_line_of_a_plan_loads_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from gsd_cli.cli.preflight_distill import plan_distill\n"
        "from gsd_cli.options import DistillOptions\n"
        "print(next(iter(plan_distill(DistillOptions(kimg=11)))))\n"
        "assert not {'torch', 'diffusers', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("ddpm-fashion: 172 steps of batch 64")


@pytest.mark.parametrize("command", commands())
def test_help_fits_eighty_columns_and_leaves_half_to_the_text(command: str, shell: Shell) -> None:
    lines = shell.gsd(command, "--help", env={"COLUMNS": "80"}).stdout.decode().splitlines()
    assert max(map(len, lines)) == 80
    continued = [line for line in lines if re.match(r"│ {12,}\S", line)]
    assert continued
    # what a flag does begins in the left half
    assert max(len(line) - len(line[1:].lstrip()) for line in continued) <= 40
