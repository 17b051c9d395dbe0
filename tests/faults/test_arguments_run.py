"""Random argument lists given to real processes, and run: an exit code of the table, never a traceback."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from gsd_cli.base.errors import ExitCode
from gsd_cli.cli.flags import commands
from tests.cli.test_arguments import FLAGS, VALUES
from tests.support.shell import Shell

LIST_EXAMPLES = 12
SECONDS = 0.5
"""After which a command that found work to do is stopped."""
OURS = ["run", "toy.zip", "toy-teacher", "toy-features", "seed:1", "example:bag", "fd,kid,pr", "ddim-2", "pc0", "1:2:3"]
WORDS = st.one_of(st.sampled_from(FLAGS), st.sampled_from(VALUES), st.sampled_from(OURS))
RAN = {"count": 0}


@seed(5)
@settings(
    max_examples=LIST_EXAMPLES,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(command=st.sampled_from(sorted(commands())), words=st.lists(WORDS, max_size=6))
def _any_list(command: str, words: list[str], desk: Shell) -> None:
    clean = [word for word in words if "\x00" not in word and "\udcff" not in word]
    running = desk.running(command, *clean, "--offline")
    end = time.monotonic() + SECONDS
    while running.alive and time.monotonic() < end:
        time.sleep(0.02)
    running.send(signal.SIGTERM)
    done = running.wait(60)
    text = done.stderr.decode(errors="replace")
    RAN["count"] += 1
    assert done.returncode in {*ExitCode, -signal.SIGTERM} - {ExitCode.UNEXPECTED}, (command, clean, text)
    assert "Traceback" not in text, (command, clean, text)


@pytest.mark.fault(23, "random argument lists, run in processes of their own")
def test_any_list_of_words_is_answered(desk: Shell, record_property: Callable[[str, object], None]) -> None:
    RAN["count"] = 0
    _any_list(desk=desk)
    record_property("injections", RAN["count"])
    assert RAN["count"] >= LIST_EXAMPLES // 2
