"""Download models from the Hugging Face hub with its own client: cached, resumed, verified."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gsd_cli.base.download import file_sha256
from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.catalogue.diffusers_layout import (
    BIN_WEIGHTS,
    CONFIGS,
    OTHER_BIN_WEIGHTS,
    OTHER_SAFE_WEIGHTS,
    PARTS,
    SAFE_INDEX,
    SAFE_WEIGHTS,
    STEM,
    find_weights,
)

OnBytes = Callable[[int, int], None]
"""Called with (bytes done, bytes in total)."""
ANSWER_SECONDS = 10


def fetch(
    hub_id: str, *, offline: bool = False, revision: str | None = None, on_bytes: OnBytes | None = None,
    check: Callable[[Path], object] = lambda folder: None, only: Sequence[str] | None = None,
) -> tuple[Path, str]:  # fmt: skip
    """Download a model, or find it in the hub cache; returns its folder and commit.

    on_bytes(done, total) is called from time to time, from other threads. check(folder) is called when the config files
    are there, and may raise GsdError before gigabytes of weights are fetched. only: patterns of files, instead of the
    network and the autoencoder. An interrupted download
    resumes where it stopped. Raises GsdError (exit 4): no network, not found, gated, damaged in transfer.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when the client is imported
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
    bar = _progress_bar_class(on_bytes or (lambda *_: None))
    silent = not offline and hangs(hub_id, revision)

    def download(patterns: list[str]) -> Path:
        fetched = snapshot_download(
            hub_id,
            revision=revision,
            local_files_only=offline or silent,
            allow_patterns=patterns,
            etag_timeout=ANSWER_SECONDS,
            tqdm_class=bar,
        )
        return Path(str(fetched))

    try:
        if only is not None:
            folder = download([*only])
            return folder, folder.name
        check(download([*CONFIGS]))
        folder = download([*CONFIGS, *(part + name for part in PARTS for name in (SAFE_WEIGHTS, SAFE_INDEX))])
        # in this order: shards of an index, .bin weights, variants, weights under the names of other libraries
        variants = (f"{STEM}.*.safetensors", f"{SAFE_WEIGHTS}.index.*.json")
        for patterns in (
            (f"{STEM}-*.safetensors",),
            (BIN_WEIGHTS,),
            variants,
            (OTHER_SAFE_WEIGHTS,),
            (OTHER_BIN_WEIGHTS,),
        ):
            if bare := [part for part in PARTS if _lacks_weights(folder / part)]:
                folder = download([part + pattern for part in bare for pattern in patterns])
    except GsdError:
        raise
    except Exception as error:  # the hub client, its HTTP library and the cache raise unrelated kinds
        raise _explain(hub_id, error, offline) from error
    finally:
        bar.listening = False
    if bar.moved:
        _verify(hub_id, folder)
    return folder, folder.name


def _lacks_weights(part: Path) -> bool:
    """Whether a network's weights, or some of their shards, are still missing."""
    if not (part / "config.json").exists():
        return False
    try:
        return find_weights(part) is None
    except GsdError:
        return True


def hangs(hub_id: str, revision: str | None) -> bool:
    """Whether the hub accepts connections but does not answer: a download would wait forever."""
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(hub_id, revision=revision, timeout=ANSWER_SECONDS)
    except Exception as error:  # the download meets every other error again and explains it
        return "Timeout" in type(error).__name__
    return False


def is_cached(hub_id: str) -> bool:
    """Whether a model's weights are in the hub cache; uses no network."""
    from huggingface_hub import try_to_load_from_cache

    variants = (f"{STEM}.fp16.safetensors", f"{SAFE_WEIGHTS}.index.fp16.json")
    kinds = (SAFE_WEIGHTS, SAFE_INDEX, BIN_WEIGHTS, *variants)
    names = [part + weights for part in PARTS for weights in kinds]
    return any(isinstance(try_to_load_from_cache(hub_id, name), str) for name in names)


def _progress_bar_class(on_bytes: OnBytes) -> Any:
    """A tqdm class that draws nothing: it reports bytes while `listening` and sets `moved` at the first one."""
    from tqdm.auto import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        listening, moved = True, False

        def __init__(self, *args: Any, **kwargs: Any):
            super().__init__(*args, **{**kwargs, "file": io.StringIO(), "disable": False})

        def display(self, *_args: Any, **_kwargs: Any) -> bool:
            if Bar.listening and self.unit == "B" and self.n:
                Bar.moved = True
                on_bytes(int(self.n), int(self.total or 0))
            return True

    return Bar


def _verify(hub_id: str, folder: Path) -> None:
    """Check weights against their sha256, which is the name of the blob that stores a large file."""
    for path in folder.rglob("*"):
        blob = path.resolve()
        if path.suffix not in (".safetensors", ".bin") or len(blob.name) != 64:
            continue
        if (found := file_sha256(blob)) != blob.name:
            path.unlink()
            blob.unlink(missing_ok=True)
            raise GsdError(
                f"{path.name} of {hub_id} was damaged in transfer: sha256 {found[:12]}..., not {blob.name[:12]}...",
                hint="it was removed; run the command again",
                code=ExitCode.NETWORK,
            )


def _explain(hub_id: str, error: Exception, offline: bool) -> GsdError:
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        cause, hint = "access to it must be granted", f"ask for it at huggingface.co/{hub_id}, then set HF_TOKEN"
    elif isinstance(error, RepositoryNotFoundError):
        cause, hint = "the hub has no such model", "check the name; private models need HF_TOKEN"
    elif isinstance(error, RevisionNotFoundError):
        cause, hint = "it has no such revision", "give a branch, a tag or a commit of it"
    elif offline:
        cause, hint = "it is not in the cache", "run once without --offline"
    elif isinstance(error, LocalEntryNotFoundError):
        cause, hint = "the hub cannot be reached and it is not in the cache", "check the network, or use a local folder"
    else:
        cause = (str(error).splitlines() or [type(error).__name__])[0][:160]
        hint = "check the network and run again: a download resumes where it stopped"
    return GsdError(f"cannot get {hub_id}: {cause}", hint=hint, code=ExitCode.NETWORK)
