from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from gsd_cli.base.errors import ExitCode, GsdError, Stopped
from gsd_cli.base.signals import StopRequest
from gsd_cli.data.workers import run_in_order


def touch(path: Path, seconds: float, stopped) -> None:
    time.sleep(seconds)
    path.touch()


def refuse(stopped) -> None:
    raise GsdError("no", hint="never", code=ExitCode.STORAGE)


def die(stopped) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_the_end(path: Path, stopped) -> None:
    path.touch()
    while not stopped():
        time.sleep(0.01)


def test_keys_come_in_order_after_their_tasks(tmp_path: Path) -> None:
    tasks = ((i, partial(touch, tmp_path / str(i), 0.1 * (i % 3 == 0)) if i != 4 else None) for i in range(9))
    for expected, key in enumerate(run_in_order(tasks, 2, StopRequest())):
        assert key == expected
        assert key == 4 or (tmp_path / str(key)).exists()
    assert expected == 8


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_worker_arrives_whole(workers: int) -> None:
    with pytest.raises(GsdError) as caught:
        list(run_in_order(iter([(0, refuse), (1, refuse)]), workers, StopRequest()))
    assert (caught.value.message, caught.value.hint, caught.value.code) == ("no", "never", ExitCode.STORAGE)


def test_a_worker_that_died_is_exit_5() -> None:
    with pytest.raises(GsdError, match="died") as caught:
        list(run_in_order(iter([(i, die) for i in range(3)]), 2, StopRequest()))
    assert caught.value.code == ExitCode.DEVICE


def test_a_stop_reaches_running_tasks(tmp_path: Path) -> None:
    stop = StopRequest()

    def tasks():
        for i in range(50):
            yield i, partial(wait_for_the_end, tmp_path / str(i))
            if (tmp_path / "0").exists() or i == 3:
                stop.code = ExitCode.INTERRUPTED

    with pytest.raises(Stopped):
        list(run_in_order(tasks(), 2, stop))
