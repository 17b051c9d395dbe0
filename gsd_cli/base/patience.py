"""How long a silent server is waited for. No heavy imports."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 60.0


@contextmanager
def patience() -> Iterator[None]:
    """Within, a server that says nothing for a minute is a TimeoutError: urllib by itself waits for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
