"""Locks that let one process at a time work in a folder or on a file. No heavy imports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.base.storage import storage_errors


class exclusive:  # noqa: N801 - reads as a statement: with exclusive(run)
    """Hold a folder for one process. Raises GsdError (exit 2) when another holds it."""

    def __init__(self, run: Path):
        with storage_errors(run):
            run.mkdir(parents=True, exist_ok=True)
        self.run = run
        self.lock = FileLock(run / ".lock")

    def __enter__(self) -> None:
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            raise GsdError(
                f"another gsd process is working in {self.run}",
                hint="wait for it, or choose another folder with -o",
                code=ExitCode.USAGE,
            ) from None

    def __exit__(self, *exc: object) -> None:
        self.lock.release()


@contextmanager
def one_at_a_time(target: Path, check: Callable[[], object]) -> Iterator[None]:
    """Let one process at a time create `target`; the others wait and call `check` once per second."""
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        while not lock.is_locked:
            try:
                lock.acquire(timeout=1)
            except Timeout:
                check()
    try:
        yield
    finally:
        lock.release()
