"""Random argument lists end with a documented exit code and a message, never a traceback."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gsd_cli.base.console import Console, Result
from gsd_cli.base.errors import ExitCode
from gsd_cli.cli import app
from gsd_cli.cli.flags import commands

NAMES = [part for c in commands().values() for one in c.flags for part in one.names]
FLAGS = sorted({name for part in NAMES for name in part.split("/")})
VALUES = ["", "-", "--", "0", "-1", "1e999", "nan", "inf", "0-3", "5-3", "seed:1", "auto", "cuda:99", "quick",
          "=", "--=", "-x", "\x00", "\udcff", "😀", "9" * 400, "../../x", "/dev/null", "[bold]", "%s"]  # fmt: skip
WORDS = st.one_of(
    st.sampled_from([*FLAGS, "--config", "--dry-run", "-n"]), st.sampled_from(VALUES), st.text(max_size=8)
)


@pytest.fixture
def _harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No work is done, no terminal is read, and stdout belongs to pytest."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(app, "execute", lambda *_: Result(["made"]))
    monkeypatch.setattr(Console, "claim_stdout", lambda self: setattr(self, "_out", io.BytesIO()))
    monkeypatch.setattr("sys.stdin", io.StringIO("seed = 3\n"))


@pytest.mark.fault(23, "properties of argument lists: 500 examples")
@pytest.mark.usefixtures("_harmless")
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(command=st.sampled_from([*commands(), "destill", "", "-h"]), words=st.lists(WORDS, max_size=8))
def test_any_argument_list_ends_with_an_exit_code_of_the_table(
    command: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = app.main([command, *words])
    text = capsys.readouterr().err
    assert code in set(ExitCode) - {ExitCode.UNEXPECTED}, text
    assert "Traceback" not in text
    if code == ExitCode.USAGE:
        assert "error:" in text
        assert "hint:" in text


@pytest.mark.usefixtures("_harmless")
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), command=st.sampled_from([*commands()]))
def test_every_wrong_value_is_named_at_once(command: str, data: Any, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = [one for one in commands()[command].flags if one.metavar in ("INTEGER", "NUMBER")]
    wrong = data.draw(st.lists(st.sampled_from(numbers), min_size=1, max_size=4, unique_by=lambda one: one.public))
    words = [word for one in wrong for word in (one.name, data.draw(st.sampled_from(["x", "nan?", "--3"])))]
    capsys.readouterr()
    assert app.main([command, *words, "--tpyo"]) == ExitCode.USAGE
    text = capsys.readouterr().err
    assert all(f"{one.name}:" in text for one in wrong)
    assert "no such option: --tpyo" in text
