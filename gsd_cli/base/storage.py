"""Where files live, disk errors as exit codes, and JSON files."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.base.text import format_bytes

ASSETS = Path(__file__).parents[1] / "assets"
RUNS = Path("runs")


def cache_dir(override: Path | None = None) -> Path:
    """The cache folder: the option, else `GSD_CACHE_DIR`, else the platform's."""
    if override is not None:
        return override
    if env := os.environ.get("GSD_CACHE_DIR"):
        return Path(env)
    from platformdirs import user_cache_path

    return user_cache_path("gsd")


_output_options = "-o"


def set_output_options(options: str) -> None:
    """Set the options with which the running command can write to another place, for hints."""
    global _output_options
    _output_options = options


def output_hint() -> str:
    """A hint for files that cannot be written."""
    return f"choose another place with {_output_options}"


@contextmanager
def storage_errors(target: Path | None) -> Iterator[None]:
    """Turn a full disk, a read-only folder or a file in the way into exit code 8. None stands for stdout."""
    name = "stdout" if target is None else str(target)
    try:
        yield
    except Exception as error:
        number = _errno(error)
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            room = "" if target is None or _is_device(target) else f" ({format_bytes(_free(target))} free)"
            raise GsdError(
                f"no room to write {name}{room}",
                hint="write to a file" if target is None else f"free some space, or {output_hint()} or --cache-dir",
                code=ExitCode.STORAGE,
            ) from error
        blocked = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)
        if number in blocked:
            raise GsdError(
                f"cannot write {name}: {os.strerror(number)}",
                hint=output_hint(),
                code=ExitCode.STORAGE,
            ) from error
        raise


def _errno(error: Exception) -> int:
    if isinstance(error, OSError):
        return error.errno or 0
    # safetensors reports the system's error only in its message
    named = re.search(r"\(os error (\d+)\)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(named[1]) if named else 0


def _is_device(path: Path) -> bool:
    """Whether a path is a device or a pipe, such as /dev/stdout: what is free in its folder says nothing."""
    return path.exists() and not (path.is_file() or path.is_dir())


def _free(path: Path) -> int:
    """Bytes free on the disk of `path`, which need not exist yet."""
    path = path.absolute()
    while not path.is_dir():
        path = path.parent
    return shutil.disk_usage(path).free


def require_room(target: Path, needed: int) -> None:
    """Fail early when fewer than `needed` bytes are free for `target`. Raises GsdError (exit 8)."""
    if (free := _free(target)) < needed:
        raise GsdError(
            f"{target} needs about {format_bytes(needed)}, {format_bytes(free)} are free",
            hint=f"free some space, or {output_hint()}",
            code=ExitCode.STORAGE,
        )


@contextmanager
def tolerate_storage_errors(warn: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Go on when a cache is full or read-only, with a warning, instead of losing the work that it should keep."""
    try:
        yield
    except GsdError as error:
        if error.code != ExitCode.STORAGE:
            raise
        warn(f"not kept in the cache: {error.message}")


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
