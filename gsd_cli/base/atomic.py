"""Files and folders come into being whole or not at all; what a killed process left half-written is cleared away."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.base.storage import output_hint, storage_errors

try:
    import fcntl
except ImportError:  # Windows: leftovers stay
    fcntl = None  # type: ignore[assignment]

PREFIX = ".tmp-gsd-"
"""Of everything half-written. Its writer holds a lock on it, which ends with the process."""


def require_writable(target: Path, *, folder: bool) -> None:
    """Fail early, before torch is loaded, when `target` cannot be written; clear away what a killed process left there.

    Raises GsdError (exit 8) when a folder is wanted and a file is there, or the other way
    round, or when the nearest existing parent is not writable.
    """
    if target.exists() and target.is_dir() != folder:
        found, wanted = ("a file", "a folder") if folder else ("a folder", "a file")
        raise GsdError(
            f"{target} is {found}, {wanted} is needed",
            hint=output_hint(),
            code=ExitCode.STORAGE,
        )
    parent = target.absolute()
    while not parent.exists():
        parent = parent.parent
    if not (parent.is_dir() or parent == target.absolute()) or not os.access(parent, os.W_OK):
        raise GsdError(
            f"cannot write {target}: {parent} is not writable",
            hint=output_hint(),
            code=ExitCode.STORAGE,
        )
    sweep(target.absolute().parent)
    sweep(target, "**/")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target`; on success sync it and rename it into place."""
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        # the suffix is kept: writers choose their format by it
        with _temporary(target) as temporary:
            yield temporary
            publish(temporary, target)


def publish(temporary: Path, target: Path) -> None:
    """Sync a finished file and rename it into place; both on one file system."""
    _sync(temporary)
    os.chmod(temporary, 0o644)
    os.replace(temporary, target)
    _sync(target.parent)  # the name outlasts a loss of power


@contextmanager
def atomic_files(folder: Path) -> Iterator[Callable[[str, bytes], Path]]:
    """Yield a function (name, content) -> path that puts a whole, synced file into `folder`, from any thread.

    For many small files: they share one temporary folder, and their names are synced once, at the end.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with _temporary(folder / "files", folder=True) as temporary:

            def write(name: str, content: bytes) -> Path:
                path, target = temporary / name, folder / name
                with storage_errors(target):
                    with path.open("wb") as file:
                        file.write(content)
                        file.flush()
                        os.fsync(file.fileno())
                    os.replace(path, target)
                return target

            yield write
            _sync(folder)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; on success sync its files and swap it into place."""
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(target, folder=True) as temporary:
            yield temporary
            for path in temporary.rglob("*"):
                if path.is_file():
                    os.chmod(path, 0o644)  # some writers make private files
                    _sync(path)
            os.chmod(temporary, 0o755)
            _swap(temporary, target)
            _sync(target.parent)


def _swap(temporary: Path, target: Path) -> None:
    """Put a folder in the place of another; `temporary` may hold the old one afterwards."""
    if not target.exists():
        os.rename(temporary, target)
        return
    if _exchange(temporary, target):
        return
    # no folder can be renamed over another: set the old one aside first; a kill here leaves it there
    with _temporary(target, folder=True) as aside:
        os.rename(target, aside / "old")
        try:
            os.rename(temporary, target)
        except OSError:
            os.rename(aside / "old", target)
            raise


def _exchange(a: Path, b: Path) -> bool:
    """Let two paths change places at once, where the system can (Linux's renameat2)."""
    import ctypes

    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    done: int = rename(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE)
    return done == 0


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextmanager
def _temporary(target: Path, *, folder: bool = False) -> Iterator[Path]:
    """A file or folder beside `target`, locked while it is in use and removed afterwards."""
    path, lock = _locked(target, folder=folder)
    try:
        yield path
    finally:
        _remove(path)
        os.close(lock)


def _locked(target: Path, *, folder: bool) -> tuple[Path, int]:
    while True:
        if folder:
            path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=target.parent))
        else:
            handle, name = tempfile.mkstemp(prefix=PREFIX, suffix=target.suffix, dir=target.parent)
            os.close(handle)
            path = Path(name)
        with suppress(FileNotFoundError):  # another process swept it before it was locked
            lock = os.open(path, os.O_RDONLY)
            if _hold(lock, otherwise=True) and path.exists():
                return path, lock
            os.close(lock)


def sweep(folder: Path, below: str = "") -> None:
    """Remove what killed processes left half-written in `folder` (and in all of its folders: below="**/").

    What another process is writing stays.
    """
    if fcntl is None:
        return
    for leftover in list(folder.glob(f"{below}{PREFIX}*")):
        with suppress(OSError):
            lock = os.open(leftover, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if _hold(lock, otherwise=False):
                    _remove(leftover)
            finally:
                os.close(lock)


def _hold(lock: int, *, otherwise: bool) -> bool:
    """Take the lock; False where another process has it, `otherwise` where the file system knows none."""
    if fcntl is None:
        return otherwise
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return otherwise
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_json(target: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_file(target) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=False) + "\n", encoding="utf-8")
