"""Downloads: files are fetched whole or not at all, and checked by their sha256."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gsd_cli.base.atomic import atomic_file, sweep
from gsd_cli.base.errors import ExitCode, GsdError

TIMEOUT = 60.0
"""Seconds to wait for a silent server."""


@contextmanager
def network_timeout() -> Iterator[None]:
    """Raise TimeoutError in here when a server is silent for a minute; urllib would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def file_sha256(path: Path) -> str:
    """The sha256 of a file's content, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(url: str, path: Path, sha256: str = "") -> None:
    """Fetch `url` into `path`; sha256 is the start of the digest it must have.

    Raises OSError: no network, a server that is silent, or content that differs. Raises GsdError (exit 8) when `path`
    cannot be written.
    """
    from torch.hub import download_url_to_file  # torch is slow to load, and only a download needs it here

    sweep(path.parent)
    with network_timeout(), atomic_file(path) as temporary:
        try:
            download_url_to_file(url, str(temporary), hash_prefix=sha256 or None, progress=False)
        except RuntimeError as error:  # the digest differs
            raise OSError(str(error)) from error


def fetch_file(path: Path, url: str, sha256: str, what: str, hint: str, *, offline: bool) -> Path:
    """Return `path`, downloaded from `url` if it is not there; sha256 may be the start of the digest.

    Raises GsdError: exit 4 when the file is not available, exit 3 when `path` holds something else.
    """
    if not path.exists():
        if offline:
            raise GsdError(f"{what} is not in the cache", hint=hint, code=ExitCode.NETWORK)
        try:
            download(url, path, sha256)
        except OSError as error:
            raise GsdError(f"cannot download {what}: {error}", hint=hint, code=ExitCode.NETWORK) from error
    elif not (found := file_sha256(path)).startswith(sha256):
        raise GsdError(f"{path} is damaged: sha256 {found[:12]}..., {sha256[:12]}... expected", hint="delete it")
    return path
