"""Handles SIGINT, SIGTERM and SIGHUP: the first stops the work at its next step, a second SIGINT or SIGTERM at once."""

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
"""The exit code of each handled signal: 128 plus its number."""
if hasattr(signal, "SIGHUP"):  # Windows has none
    CODES[signal.SIGHUP] = ExitCode.HANGUP
_STREAMS = (0, 1, 2)


class StopRequest:
    """Whether the user asked to stop. The work polls it between steps.

    begun: the start of the command, by time.monotonic. report: prints the reason if the process exits at once.

    Python runs a signal handler only between its own instructions, so never while the main thread waits inside a
    library for other processes. A second thread learns of signals even then.
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
        """Start to handle the signals. An ignored SIGHUP (nohup) stays ignored."""
        self._terminals = [stream for stream in _STREAMS if _is_terminal(stream)]
        for number in CODES:
            if CODES[number] == ExitCode.HANGUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            signal.signal(number, self._receive)
        read_end, write_end = os.pipe()
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        threading.Thread(target=self._listen, args=(read_end,), daemon=True).start()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """In this context the first signal exits at once: nothing needs saving, and the main thread may not react."""
        self._waiting = True
        try:
            self.check()
            yield
        finally:
            self._waiting = False

    def __call__(self) -> bool:
        """Whether a signal arrived."""
        return self.code is not None

    def follow(self) -> None:
        """Stop this process too, because another process of the same run was asked to stop."""
        self.code = self.code or ExitCode.INTERRUPTED

    def check(self, *_: object) -> None:
        """Raise Stopped if a signal arrived. Arguments are ignored, so that it can be a callback."""
        if self.code is not None:
            raise Stopped(self.resume, code=self.code)

    def _listen(self, read_end: int) -> None:
        """Exit if the main thread cannot: at the first signal in `waiting`, else at the second urgent one."""
        urgent = 0
        while numbers := os.read(read_end, 64):
            for code in (CODES[signal.Signals(number)] for number in numbers if number in CODES):
                urgent += code != ExitCode.HANGUP
                if self._waiting:
                    self.report(Stopped(self.resume, code=code))
                if self._waiting or urgent > 1:
                    os._exit(code)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        code = CODES[signal.Signals(number)]
        if code == ExitCode.HANGUP:
            # a closing terminal may send several, and a SIGTERM: they do not mean that the user is impatient
            _redirect_to_null(self._terminals)
        elif self._urgent:
            os._exit(code)  # files appear only when complete: nothing to clean up
        else:
            self._urgent = True
        self.code = self.code or code


def _is_terminal(stream: int) -> bool:
    with suppress(OSError):
        return os.isatty(stream)
    return False


def _redirect_to_null(terminals: list[int]) -> None:
    """Redirect streams of a closed terminal to the null device, because writing to them would raise errors."""
    gone = [stream for stream in terminals if not _is_terminal(stream)]
    if gone:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in gone:
            os.dup2(null, stream)
        os.close(null)
