"""One explorer of the toy run, written by gsd's own command."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gsd_cli.base.console import Console
from gsd_cli.base.errors import GsdError
from gsd_cli.base.session import Session
from gsd_cli.core.explorer.runtime import fetch_runtime
from tests.support.shell import Shell


@pytest.fixture(scope="session")
def explorer(workshop: Shell, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an explorer of the toy run, with an image; its tarball is that of the user's cache."""
    pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    try:
        tarball = fetch_runtime(Session(Console(quiet=True)))
    except GsdError as error:
        pytest.skip(error.message)
    cache = Path(workshop.environment()["GSD_CACHE_DIR"])
    cache.mkdir(parents=True, exist_ok=True)
    shutil.copy(tarball, cache / tarball.name)
    folder = tmp_path_factory.mktemp("explorer") / "page"
    made = workshop.gsd(
        "edit", "example:bag", "--explore", str(folder), "--model", "run", "--attribute", "brightness",
        "--fit-samples", "64", "--invert-steps", "4", "--invert-starts", "1",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr.decode()
    assert made.stdout.decode() == f"{folder}/index.html\n"
    return folder
