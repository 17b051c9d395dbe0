"""A name for a model's weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

from gsd_cli.core.layout import BIN_WEIGHTS, PARTS, SAFE_WEIGHTS


def weights_fingerprint(folder: Path) -> str:
    """sha256 over the weight files of a diffusers folder (network and autoencoder), 16 hex digits."""
    digest = hashlib.sha256()
    for part in PARTS:
        for name in (SAFE_WEIGHTS, BIN_WEIGHTS):
            if (path := folder / part / name).is_file():
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
                break
    return digest.hexdigest()[:16]
