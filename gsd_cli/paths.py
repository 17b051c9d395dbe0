"""Where files live, and how they come into being: whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gsd_cli.errors import ExitCode, GsdError

ASSETS = Path(__file__).parent / "assets"
RUNS = Path("runs")


def cache_dir(override: Path | None = None) -> Path:
    """The cache folder: the option, else `GSD_CACHE_DIR`, else the platform's."""
    if override is not None:
        return override
    if env := os.environ.get("GSD_CACHE_DIR"):
        return Path(env)
    from platformdirs import user_cache_path

    return user_cache_path("gsd")


@contextmanager
def storage_errors(target: Path) -> Iterator[None]:
    """Turn a full disk, a read-only folder or a file in the way into exit code 8."""
    try:
        yield
    except Exception as error:
        number = _errno(error)
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise GsdError(
                f"no room to write {target} ({_size(_free(target))} free)",
                hint="free some space, or choose another place with -o or --cache-dir",
                code=ExitCode.STORAGE,
            ) from error
        blocked = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)
        if number in blocked:
            raise GsdError(
                f"cannot write {target}: {os.strerror(number)}",
                hint="choose another place with -o",
                code=ExitCode.STORAGE,
            ) from error
        raise


def _errno(error: Exception) -> int:
    if isinstance(error, OSError):
        return error.errno or 0
    # safetensors tells the system's error in words only
    named = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(named[1]) if named else 0


def _free(path: Path) -> int:
    """Bytes free where `path` is, or will be."""
    path = path.absolute()
    while not path.is_dir():
        path = path.parent
    return shutil.disk_usage(path).free


def _size(count: float) -> str:
    return f"{count / 1e6:.0f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def require_room(target: Path, needed: int) -> None:
    """Fail early when fewer than `needed` bytes are free for `target`. Raises GsdError (exit 8)."""
    if (free := _free(target)) < needed:
        raise GsdError(
            f"{target} needs about {_size(needed)}, {_size(free)} are free",
            hint="free some space, or choose another place with -o",
            code=ExitCode.STORAGE,
        )


@contextmanager
def kept_if_possible(tell: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """A cache that is full or read-only costs a word, not the work that was to be kept in it."""
    try:
        yield
    except GsdError as error:
        if error.code != ExitCode.STORAGE:
            raise
        tell(f"not kept in the cache: {error.message}")


def require_writable(target: Path, *, folder: bool) -> None:
    """Fail early, before torch is loaded, when `target` cannot be written.

    Raises GsdError (exit 8) when a folder is wanted and a file is there, or the other way
    round, or when the nearest existing parent is not writable.
    """
    if target.exists() and target.is_dir() != folder:
        found, wanted = ("a file", "a folder") if folder else ("a folder", "a file")
        raise GsdError(
            f"{target} is {found}, {wanted} is needed",
            hint="choose another place with -o",
            code=ExitCode.STORAGE,
        )
    parent = target.absolute()
    while not parent.exists():
        parent = parent.parent
    if not (parent.is_dir() or parent == target.absolute()) or not os.access(parent, os.W_OK):
        raise GsdError(
            f"cannot write {target}: {parent} is not writable",
            hint="choose another place with -o",
            code=ExitCode.STORAGE,
        )


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
        handle, name = tempfile.mkstemp(prefix=".tmp-", suffix=target.suffix, dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            publish(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def publish(temporary: Path, target: Path) -> None:
    """Sync a finished file and rename it into place; both on one file system."""
    _sync(temporary)
    os.chmod(temporary, 0o644)
    os.replace(temporary, target)
    _sync(target.parent)


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `target`; on success sync its files and swap it into place."""
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=target.parent))
        try:
            yield temporary
            for path in temporary.rglob("*"):
                if path.is_file():
                    os.chmod(path, 0o644)  # some writers make private files
                    _sync(path)
            os.chmod(temporary, 0o755)
            _swap(temporary, target)
            _sync(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _swap(temporary: Path, target: Path) -> None:
    """Put a folder in the place of another; `temporary` may hold the old one afterwards."""
    if not target.exists():
        os.rename(temporary, target)
        return
    if _exchange(temporary, target):
        return
    # no folder can be renamed over another: set the old one aside first; a kill here leaves it there
    old = Path(tempfile.mkdtemp(prefix=".tmp-", dir=target.parent))
    os.rename(target, old / "old")
    try:
        os.rename(temporary, target)
    except OSError:
        os.rename(old / "old", target)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


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


def sweep(folder: Path) -> None:
    """Remove what an interrupted write left behind in `folder`."""
    for leftover in folder.glob(".tmp-*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def write_json(target: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with atomic_file(target) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises GsdError (exit 3) when it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise GsdError(f"cannot read {path}: {error}", hint=_AGAIN) from error


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object. Raises GsdError (exit 3) when it is missing, damaged or holds another."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise GsdError(f"{path} is damaged: it holds no object", hint=_AGAIN)
    return value


_AGAIN = "copy or fetch the folder again, or make it again"
