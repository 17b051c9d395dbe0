"""onnxruntime-web, which runs the generator in the browser: fetched once from the npm registry, checked and cached."""

from __future__ import annotations

import base64
import hashlib
import os
import tarfile
from pathlib import Path

from gsd_cli.base.download import download
from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.base.session import Session

VERSION = "1.30.0"
TARBALL = f"onnxruntime-web-{VERSION}.tgz"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""As the registry states it for this version."""
REGISTRY = "https://registry.npmjs.org"
REGISTRY_VARIABLE = "npm_config_registry"
"""As npm itself names it, in small letters."""
BACKENDS = {
    "wasm": ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"),
    "webgpu": ("ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"),
}
"""The two files of each way to compute: JavaScript and WebAssembly."""


def fetch_runtime(session: Session) -> Path:
    """The tarball of onnxruntime-web, downloaded if the cache does not hold it.

    The registry is that of npm, or the one that `npm_config_registry` names. Raises GsdError: exit 4 where the
    tarball is not available, exit 3 where it differs from the pinned one.
    """
    registry = os.environ.get(REGISTRY_VARIABLE) or REGISTRY
    url = f"{registry.rstrip('/')}/onnxruntime-web/-/{TARBALL}"
    path = session.cache / TARBALL
    hint = f"fetch {url} on another machine and save it as {path}"
    if path.exists():
        _require_intact(path, "delete it; the next run fetches it again")
        return path
    if session.offline:
        raise GsdError(f"onnxruntime-web {VERSION} is not in the cache", hint=hint, code=ExitCode.NETWORK)
    with session.progress(f"fetching onnxruntime-web {VERSION}"):
        try:
            download(url, path)
        except (OSError, ValueError) as error:  # a registry that is no URL gives the latter
            message = f"cannot download onnxruntime-web from {registry}: {error}"
            raise GsdError(message, hint=hint, code=ExitCode.NETWORK) from error
    try:
        _require_intact(path, f"the registry {registry} gave another file; {hint}")
    except GsdError:
        path.unlink(missing_ok=True)
        raise
    return path


def _require_intact(path: Path, hint: str) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha512").digest()
    if f"sha512-{base64.b64encode(digest).decode()}" != INTEGRITY:
        raise GsdError(f"{path} is not onnxruntime-web {VERSION}: its sha512 differs", hint=hint)


def extract_runtime(tarball: Path, folder: Path) -> None:
    """Write the files of both backends into `folder`."""
    folder.mkdir()
    with tarfile.open(tarball) as archive:
        for name in (name for files in BACKENDS.values() for name in files):
            member = archive.extractfile(f"package/dist/{name}")
            assert member is not None  # the integrity of the tarball was checked
            (folder / name).write_bytes(member.read())
