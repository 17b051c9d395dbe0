"""SIGINT and SIGTERM: the first asks the work to stop at its next step, the second leaves at once."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType

from gsd_cli.errors import ExitCode, Stopped

_CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


class StopRequest:
    """Whether the user asked to stop; poll it between steps.

    begun: when the command began, by time.monotonic.
    """

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.code: ExitCode | None = None
        self.resume: str | None = None

    def install(self) -> None:
        """Listen for both signals."""
        for number in _CODES:
            signal.signal(number, self._receive)

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

    def _receive(self, number: int, frame: FrameType | None) -> None:
        code = _CODES[signal.Signals(number)]
        if self.code is not None:
            os._exit(code)  # files are renamed into place when whole: nothing to clean up
        self.code = code
