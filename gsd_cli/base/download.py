"""Files of known content: found in the cache or downloaded, and checked by their sha256."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.base.patience import patience
from gsd_cli.base.storage import storage_errors


def fetch_file(path: Path, url: str, sha256: str, what: str, hint: str, *, offline: bool) -> Path:
    """Return `path`, downloaded from `url` if it is not there; sha256 may be a prefix of the digest.

    Raises GsdError: exit 4 when it cannot be had, exit 3 when what lies there is something else.
    """
    if not path.exists():
        if offline:
            raise GsdError(f"{what} is not in the cache", hint=hint, code=ExitCode.NETWORK)
        try:
            with storage_errors(path), patience():
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256, progress=False)
        except (OSError, RuntimeError) as error:
            raise GsdError(f"cannot download {what}: {error}", hint=hint, code=ExitCode.NETWORK) from error
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(sha256):
        raise GsdError(f"{path} is damaged: sha256 {found[:12]}..., {sha256[:12]}... expected", hint="delete it")
    return path
