"""Upload a folder to the Hugging Face hub with its own client, in one commit, with the user's token.

The token is read by the client, from HF_TOKEN or from what `hf auth login` stored. It is not read here, and no message
holds it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gsd_cli.base.errors import ExitCode, GsdError
from gsd_cli.core.models.hub import hangs

LOGIN_HINT = "hf auth login, or set HF_TOKEN to a token with write access (huggingface.co/settings/tokens)"


@dataclass(frozen=True)
class Upload:
    """A commit on the hub: the address of the repository, and the commit's number."""

    url: str
    commit: str


def require_login(repo: str) -> str:
    """The name of the user whose token is there. Raises GsdError (exit 4): no token, a wrong one, or no network."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when the client is imported
    from huggingface_hub import HfApi

    if hangs(repo, None):
        raise _failed(repo, "the hub does not answer", "check the network")
    try:
        return str(HfApi().whoami().get("name", "?"))
    except Exception as error:  # the client and its HTTP library raise unrelated kinds
        raise _explain(repo, error) from error


def upload(repo: str, files: Mapping[str, Path], message: str) -> Upload:
    """Commit files, by their names in the repository, to the branch main; the repository is made if it is new.

    A repository that exists keeps its visibility and its other files. Raises GsdError (exit 4).
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    disable_progress_bars()
    api = HfApi()
    try:
        url = str(api.create_repo(repo, repo_type="model", exist_ok=True))
        added = [CommitOperationAdd(name, str(path)) for name, path in sorted(files.items())]
        done = api.create_commit(repo, added, commit_message=message, repo_type="model")
    except Exception as error:
        raise _explain(repo, error) from error
    return Upload(url, str(done.oid))


def _explain(repo: str, error: Exception) -> GsdError:
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None) if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, LocalTokenNotFoundError):
        return _failed(repo, "there is no token", LOGIN_HINT)
    if isinstance(error, OfflineModeIsEnabled):
        return _failed(repo, "HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE")
    if status == 401:
        return _failed(repo, "the hub does not accept the token", LOGIN_HINT)
    if status == 403:
        return _failed(repo, "the token may not write there", LOGIN_HINT)
    cause = (str(error).splitlines() or [type(error).__name__])[0][:160]
    return _failed(repo, cause, "check the network; the same command uploads the finished run without training")


def _failed(repo: str, cause: str, hint: str) -> GsdError:
    return GsdError(f"cannot publish {repo}: {cause}", hint=hint, code=ExitCode.NETWORK)
