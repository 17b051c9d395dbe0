"""SIGINT, SIGTERM, SIGHUP: the first asks the work to stop at its next step; SIGINT or SIGTERM twice leaves at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from gsd_cli.base.errors import ExitCode, GsdError, Stopped

CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}
"""Exit codes of the signals that are listened for: 128 and the signal's number."""
if hasattr(signal, "SIGHUP"):  # Windows has none
    CODES[signal.SIGHUP] = ExitCode.HANGUP
_STREAMS = (0, 1, 2)


class StopRequest:
    """Whether the user asked to stop; poll it between steps.

    begun: when the command began, by time.monotonic. report: says why the process leaves, where no caller can.

    Python runs a handler between two of its own instructions: never while the main thread is in a library that waits
    for other processes. A thread of ours hears of signals even then.
    """

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.code: ExitCode | None = None
        self.resume: str | None = None
        self.report: Callable[[GsdError], None] = lambda _: None
        self._waiting = False
        self._urgent = False
        self._terminals: list[int] = []

    def install(self) -> None:
        """Listen for the signals; a SIGHUP that is ignored, as under nohup, stays ignored."""
        self._terminals = [stream for stream in _STREAMS if _is_terminal(stream)]
        for number in CODES:
            if CODES[number] == ExitCode.HANGUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            signal.signal(number, self._receive)
        heard, written = os.pipe()
        os.set_blocking(written, False)
        signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(heard,), daemon=True).start()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """In here nothing is to be saved and the main thread may be deaf: the first signal leaves at once."""
        self._waiting = True
        try:
            self.check()
            yield
        finally:
            self._waiting = False

    def __call__(self) -> bool:
        """Whether a signal came."""
        return self.code is not None

    def follow(self) -> None:
        """Another process of the same run was asked to stop."""
        self.code = self.code or ExitCode.INTERRUPTED

    def check(self, *_: object) -> None:
        """Raise Stopped if a signal came. Takes and ignores arguments, so it can be a callback."""
        if self.code is not None:
            raise Stopped(self.resume, code=self.code)

    def _listen(self, heard: int) -> None:
        """Leave where the main thread cannot: at the first signal while it waits, at the second that is urgent."""
        urgent = 0
        while numbers := os.read(heard, 64):
            for code in (CODES[signal.Signals(number)] for number in numbers if number in CODES):
                urgent += code != ExitCode.HANGUP
                if self._waiting:
                    self.report(Stopped(self.resume, code=code))
                if self._waiting or urgent > 1:
                    os._exit(code)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        code = CODES[signal.Signals(number)]
        if code == ExitCode.HANGUP:
            # shell and kernel both send one, a session that ends a SIGTERM too: none of them is impatience
            _silence(self._terminals)
        elif self._urgent:
            os._exit(code)  # files are renamed into place when whole: nothing to clean up
        else:
            self._urgent = True
        self.code = self.code or code


def _is_terminal(stream: int) -> bool:
    with suppress(OSError):
        return os.isatty(stream)
    return False


def _silence(terminals: list[int]) -> None:
    """What is written to a terminal that is gone would be an error: it goes nowhere instead."""
    gone = [stream for stream in terminals if not _is_terminal(stream)]
    if gone:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in gone:
            os.dup2(null, stream)
        os.close(null)
