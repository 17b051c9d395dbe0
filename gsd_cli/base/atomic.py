"""Writing files and folders whole or not at all, and removing what killed processes left half-written."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gsd_cli.base.errors import ExitCode, GsdError, UsageError
from gsd_cli.base.storage import output_hint, storage_errors

try:
    import fcntl
except ImportError:  # Windows: leftovers stay
    fcntl = None  # type: ignore[assignment]

PREFIX = ".tmp-gsd-"
"""The start of the name of everything half-written. Its writer holds a lock on it, which ends with the process."""


def require_writable(target: Path, *, folder: bool) -> None:
    """Fail early, before torch is loaded, when `target` cannot be written; remove what a killed process left there.

    Raises UsageError for `-`, and GsdError (exit 8) when a file is there and a folder is needed, or the reverse, or
    when the nearest existing parent is not writable.
    """
    if target == Path("-"):
        raise UsageError(["- is stdout, and this is not written to stdout"], hint=output_hint())
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
    """Yield a temporary path next to `target`; on success sync it and rename it into place."""
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        # keep the suffix: writers choose their format by it
        with _temporary(target) as temporary:
            yield temporary
            publish(temporary, target)


def publish(temporary: Path, target: Path) -> None:
    """Sync a finished file and rename it into place, on the same file system."""
    _sync(temporary)
    os.chmod(temporary, 0o644)
    os.replace(temporary, target)
    _sync(target.parent)  # so that the name survives a power cut


@contextmanager
def atomic_files(folder: Path) -> Iterator[Callable[[str, bytes], Path]]:
    """Yield a function (name, content) -> path that writes a whole, synced file into `folder`, from any thread.

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
    """Yield a temporary folder next to `target`; on success sync its files and swap it into place."""
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(target, folder=True) as temporary:
            yield temporary
            for path in temporary.rglob("*"):
                if path.is_file():
                    os.chmod(path, 0o644)  # some writers create private files
                    _sync(path)
            os.chmod(temporary, 0o755)
            _swap(temporary, target)
            _sync(target.parent)


def _swap(temporary: Path, target: Path) -> None:
    """Put a folder in the place of another; afterwards `temporary` may hold the old one."""
    if not target.exists():
        os.rename(temporary, target)
        return
    if _exchange(temporary, target):
        return
    # a folder cannot be renamed over another, so the old one moves aside first; a kill here leaves it there
    with _temporary(target, folder=True) as aside:
        os.rename(target, aside / "old")
        try:
            os.rename(temporary, target)
        except OSError:
            os.rename(aside / "old", target)
            raise


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two paths in one step where the system can (Linux's renameat2); return whether it did."""
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
    """A file or folder next to `target`, locked while it is in use and removed afterwards."""
    path, lock = _create_locked(target, folder=folder)
    try:
        yield path
    finally:
        _remove(path)
        os.close(lock)


def _create_locked(target: Path, *, folder: bool) -> tuple[Path, int]:
    while True:
        if folder:
            path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=target.parent))
        else:
            handle, name = tempfile.mkstemp(prefix=PREFIX, suffix=target.suffix, dir=target.parent)
            os.close(handle)
            path = Path(name)
        with suppress(FileNotFoundError):  # another process swept it before it was locked
            lock = os.open(path, os.O_RDONLY)
            if _try_lock(lock, otherwise=True) and path.exists():
                return path, lock
            os.close(lock)


def sweep(folder: Path, below: str = "") -> None:
    """Remove what killed processes left half-written in `folder`; below="**/" includes its subfolders.

    Files that another process is writing stay.
    """
    if fcntl is None:
        return
    for leftover in list(folder.glob(f"{below}{PREFIX}*")):
        with suppress(OSError):
            lock = os.open(leftover, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if _try_lock(lock, otherwise=False):
                    _remove(leftover)
            finally:
                os.close(lock)


def _try_lock(lock: int, *, otherwise: bool) -> bool:
    """Take the lock; False where another process holds it, `otherwise` where the file system has no locks."""
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
