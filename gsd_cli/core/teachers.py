"""A teacher: a name, a folder or a hub id becomes a Denoiser."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gsd_cli.core.denoiser import Denoiser
from gsd_cli.core.folders import load_denoiser
from gsd_cli.errors import ExitCode, GsdError
from gsd_cli.paths import ASSETS, read_json
from gsd_cli.registry import TEACHERS

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILES = ["*.json", "*.safetensors"]


@dataclass(frozen=True)
class Teacher:
    """A frozen denoiser and where it came from.

    `features` names the bundled feature extractor trained on the same images, if there is one.
    """

    name: str
    denoiser: Denoiser
    source: str
    revision: str | None = None
    features: str | None = None
    notes: list[str] = field(default_factory=list)


def load_teacher(spec: str, *, offline: bool = False, revision: str | None = None) -> Teacher:
    """Find and read a teacher.

    spec: a name of the registry, a diffusers folder, or a hub id `owner/name`.
    Raises GsdError: exit 3 (missing, damaged, unsupported), exit 4 (hub or network).
    """
    if spec.endswith((".pkl", ".pt", ".pth", ".ckpt")):
        raise GsdError(
            f"{spec}: pickled models are not loaded, a pickle can run any code",
            hint="give a diffusers folder with safetensors weights",
        )
    notes = []
    if (entry := TEACHERS.get(spec)) is not None:
        if entry.hub is None:
            return _from_folder(ASSETS / spec, spec)
        if entry.caution:
            notes.append(entry.caution)
        folder, commit = fetch(entry.hub, offline=offline, revision=revision)
        return Teacher(spec, load_denoiser(folder), entry.hub, commit, notes=notes)
    if Path(spec).is_dir():
        return _from_folder(Path(spec), Path(spec).resolve().name)
    if _HUB_ID.fullmatch(spec) and not Path(spec).exists():
        folder, commit = fetch(spec, offline=offline, revision=revision)
        return Teacher(spec, load_denoiser(folder), spec, commit)
    close = difflib.get_close_matches(spec, TEACHERS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known names: {', '.join(TEACHERS)}; or a diffusers folder"
    raise GsdError(f"no such teacher: {spec}", hint=hint)


def _from_folder(folder: Path, name: str) -> Teacher:
    card: dict[str, Any] = read_json(folder / "gsd.json") if (folder / "gsd.json").exists() else {}
    return Teacher(name, load_denoiser(folder), str(card.get("name", name)), features=card.get("features"))


def fetch(hub_id: str, *, offline: bool, revision: str | None) -> tuple[Path, str]:
    """Download (or find in the hub cache) a model; returns its folder and commit. Exit 4 on failure."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()

    def download(patterns: list[str]) -> Path:
        return Path(
            snapshot_download(
                hub_id, revision=revision, local_files_only=offline, allow_patterns=patterns, etag_timeout=10
            )
        )

    try:
        folder = download(_HUB_FILES)
        if not any(folder.rglob("*.safetensors")):
            folder = download([*_HUB_FILES, "diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.bin"])
    except Exception as error:  # the hub client, its HTTP library and the cache raise unrelated kinds
        raise _hub_error(hub_id, error, offline) from error
    return folder, folder.name


def _hub_error(hub_id: str, error: Exception, offline: bool) -> GsdError:
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        cause, hint = "access to it must be granted", f"ask for it at huggingface.co/{hub_id}, then set HF_TOKEN"
    elif isinstance(error, RepositoryNotFoundError):
        cause, hint = "the hub has no such model", "check the name; private models need HF_TOKEN"
    elif offline:
        cause, hint = "it is not in the cache", "run once without --offline"
    elif isinstance(error, LocalEntryNotFoundError):
        cause, hint = "the hub cannot be reached and it is not in the cache", "check the network, or use a local folder"
    else:
        cause = (str(error).splitlines() or [type(error).__name__])[0][:160]
        hint = "check the network, or use a local folder or the bundled ddpm-fashion"
    return GsdError(f"cannot get {hub_id}: {cause}", hint=hint, code=ExitCode.NETWORK)
