from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gsd_cli.app import COMMANDS
from gsd_cli.resolve import field_names, flag
from tests.shell import Shell

COMPLETIONS = Path(__file__).parents[2] / "completions"


def test_help_and_usage_errors_load_nothing_heavy() -> None:
    script = (
        "import sys; sys.argv = ['gsd', *sys.argv[1:]]\n"
        "from gsd_cli.app import main\n"
        "code = main()\n"
        "heavy = {'torch', 'torchvision', 'diffusers', 'numpy', 'scipy', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "sys.exit(code)\n"
    )
    for arguments, code in ((["--help"], 0), (["distill", "--help"], 0), (["distill", "--lr", "-1"], 2)):
        done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
        assert done.returncode == code, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_every_option_and_two_examples(command: str, shell: Shell) -> None:
    done = shell.gsd(command, "-h", env={"COLUMNS": "200"})
    text = done.stdout.decode()
    assert done.returncode == 0
    assert text.count("$ gsd") == 2
    for public, info in zip(field_names(COMMANDS[command]), COMMANDS[command].model_fields.values(), strict=True):
        extra = info.json_schema_extra or {}
        if not extra.get("argument"):  # type: ignore[union-attr]
            assert flag(public) in text


def test_version(shell: Shell) -> None:
    done = shell.gsd("--version")
    assert done.returncode == 0
    assert done.stdout.decode().startswith("gsd ")


@pytest.mark.parametrize(("name", "kind"), [("gsd.bash", "bash"), ("_gsd", "zsh"), ("gsd.fish", "fish")])
def test_committed_completions_are_what_the_app_generates(name: str, kind: str) -> None:
    script = "import sys; sys.argv = ['gsd']; from gsd_cli.app import main; sys.exit(main())"
    made = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "_GSD_COMPLETE": f"source_{kind}"},
        capture_output=True,
        text=True,
    )
    # zsh needs #compdef on the first line
    assert (COMPLETIONS / name).read_text().strip() == made.stdout.strip()
    assert (COMPLETIONS / name).read_text()[0] != "\n"
