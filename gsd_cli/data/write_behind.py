"""Work on a stream's items beside the stream: while the next image is computed, the last is encoded and written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

THREADS = 4
"""Encoders and discs wait for one another more than they compute."""
MOST_WAITING = 256
"""Items in flight: a batch or two, so that a batch can be handed over at once."""


def map_beside(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """work(item) in the items' order, done by threads while `items` is asked for more.

    An error of `work` is raised where its result would come; what has not begun by then never does.
    """
    with ThreadPoolExecutor(THREADS, "gsd-write") as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                while waiting and (waiting[0].done() or len(waiting) > MOST_WAITING):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
