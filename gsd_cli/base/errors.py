"""The exceptions that gsd raises on purpose, and the exit codes that scripts may rely on."""

from __future__ import annotations

import errno
from enum import IntEnum


class ExitCode(IntEnum):
    """Process exit codes; fixed, scripts rely on them."""

    DONE = 0
    UNEXPECTED = 1
    USAGE = 2
    INPUT = 3
    NETWORK = 4
    DEVICE = 5
    DIVERGED = 6
    THRESHOLD = 7
    STORAGE = 8
    HANGUP = 129
    INTERRUPTED = 130
    TERMINATED = 143


MEANINGS: dict[ExitCode, str] = {
    ExitCode.DONE: "done",
    ExitCode.UNEXPECTED: "something unexpected: a bug",
    ExitCode.USAGE: "wrong options",
    ExitCode.INPUT: "input missing or damaged",
    ExitCode.NETWORK: "network or hub out of reach, or offline",
    ExitCode.DEVICE: "device missing, or out of memory",
    ExitCode.DIVERGED: "training diverged",
    ExitCode.THRESHOLD: "a threshold asked of gsd bench was missed",
    ExitCode.STORAGE: "disk full or not writable",
    ExitCode.HANGUP: "the terminal was closed (SIGHUP); state saved",
    ExitCode.INTERRUPTED: "interrupted; state saved",
    ExitCode.TERMINATED: "terminated; state saved",
}


class GsdError(Exception):
    """An expected failure: one line of cause, one line of advice, an exit code."""

    def __init__(self, message: str, *, hint: str | None = None, code: ExitCode = ExitCode.INPUT):
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code


class UsageError(GsdError):
    """One or more wrong options; `problems` names them all."""

    def __init__(self, problems: list[str], *, hint: str | None = None):
        super().__init__("; ".join(problems), hint=hint, code=ExitCode.USAGE)
        self.problems = problems


class Stopped(GsdError):
    """A signal ended the work at a step boundary; state is saved, and `resume` is the command that continues."""

    def __init__(self, resume: str | None, *, code: ExitCode = ExitCode.INTERRUPTED):
        super().__init__("stopped, state saved", hint=resume and f"resume with: {resume}", code=code)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a device or the machine ran out of memory, also as a bare RuntimeError of PyTorch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error)
    signs = ("out of memory", "DefaultCPUAllocator", "bad_alloc", "Cannot allocate memory", "could not create a")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)


def lost_process(error: BaseException) -> bool:
    """Whether an error means that another process of the same run is gone, as PyTorch's backends report it."""
    signs = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "Gloo", "gloo", "TCPStore")
    return type(error).__name__.startswith("Dist") or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    )
