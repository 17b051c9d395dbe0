"""Four commands killed with SIGKILL at random moments, by the code of benchmarks/faults/kills.py; 12 kills here."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.faults.kills import TASKS, kill_often
from tests.support.shell import Shell

KILLS = int(os.environ.get("GSD_TEST_KILLS", "3"))
"""Of each command."""


@pytest.mark.fault(1, "SIGKILL at random moments of gsd distill, prepare, sample and bench")
@pytest.mark.parametrize("name", TASKS)
def test_nothing_is_lost_and_nothing_half_written(
    name: str, workshop: Shell, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    outcome = kill_often(workshop, name, KILLS, 11, tmp_path)
    record_property("injections", outcome.kills)
    assert outcome.kills == KILLS
    assert outcome.flawless, outcome
