"""The variables of a launcher, and those that an earlier job left behind."""

from __future__ import annotations

import pytest

from gsd_cli.base.errors import UsageError, lost_process
from gsd_cli.base.launcher import local_rank, process_count, rank

POD = {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "29500", "LOCAL_RANK": "1"}


@pytest.fixture(autouse=True)
def _without(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", *POD):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("left", "found"),
    [
        ({}, (1, 0, 0)),
        ({"RANK": "3"}, (1, 0, 0)),
        ({"RANK": "3", "WORLD_SIZE": "4"}, (1, 0, 0)),  # no address: some schedulers set these
        ({**POD, "RANK": "3"}, (1, 0, 0)),
        ({**POD, "RANK": "3", "WORLD_SIZE": "1"}, (1, 0, 0)),  # alone, so it is the first, and prints
        ({**POD, "RANK": "3", "WORLD_SIZE": "4"}, (4, 3, 1)),
    ],
)
def test_a_process_knows_its_place(
    left: dict[str, str], found: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    assert (process_count(), rank(), local_rank()) == found


@pytest.mark.parametrize(
    "left", [{"RANK": "4", "WORLD_SIZE": "4"}, {"RANK": "x", "WORLD_SIZE": "4"}, {"RANK": "0", "WORLD_SIZE": "many"},
             {"RANK": "-1", "WORLD_SIZE": "2"}],
)  # fmt: skip
def test_variables_that_make_no_sense_are_named(left: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (POD | left).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="in the environment") as caught:
        rank()
    assert caught.value.hint and "env -u RANK" in caught.value.hint


def test_a_lost_process_is_no_bug() -> None:
    assert lost_process(RuntimeError("[../gloo/transport/tcp/pair.cc:544] Connection closed by peer [127.0.0.1]:9"))
    assert not lost_process(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not lost_process(ValueError("Connection closed by peer"))
