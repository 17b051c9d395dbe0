"""Tasks on several processes, their results in order; a stop takes effect within the time of one image."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.synchronize import Event
from typing import TypeVar

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.base.signals import CODES, StopRequest

T = TypeVar("T")
IsStopped = Callable[[], bool]
Task = Callable[[IsStopped], None]
"""Picklable work; it polls its argument and returns early once that is true."""

_POLL = 0.1
_stop: Event | None = None


def run_in_order(tasks: Iterator[tuple[T, Task | None]], workers: int, stop: StopRequest) -> Iterator[T]:
    """Run tasks and yield their keys in the given order, each once its task is done (None: done already).

    At most two tasks per worker are taken ahead. Raises Stopped after a signal, the error of a task, or GsdError
    (exit 5) when a worker died.
    """
    if workers == 1:
        for key, task in tasks:
            if task is not None:
                task(stop)
                stop.check()
            yield key
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy locks that other threads hold
    halt = context.Event()
    pool = ProcessPoolExecutor(workers, context, _start_worker, (halt,))
    try:
        ahead: deque[tuple[T, Future[None] | None]] = deque()
        for key, task in tasks:
            ahead.append((key, pool.submit(_work, task) if task is not None else None))
            if len(ahead) > 2 * workers:
                yield _wait_for(*ahead.popleft(), stop)
        while ahead:
            yield _wait_for(*ahead.popleft(), stop)
    except BrokenProcessPool as error:
        stop.check()
        raise GsdError(
            "a worker process died, perhaps because memory ran out",
            hint="the same command resumes where it stopped; --workers 1 needs the least memory",
            code=ExitCode.DEVICE,
        ) from error
    finally:
        halt.set()
        pool.shutdown(cancel_futures=True)


def _wait_for(key: T, future: Future[None] | None, stop: StopRequest) -> T:
    stop.check()
    while future is not None and not future.done():
        wait([future], timeout=_POLL)
        stop.check()
    if future is not None:
        future.result()
    return key


def _start_worker(halt: Event) -> None:
    global _stop
    _stop = halt
    for number in CODES:  # a terminal sends them to every process; the parent decides
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(task: Task) -> None:
    assert _stop is not None
    task(_stop.is_set)
